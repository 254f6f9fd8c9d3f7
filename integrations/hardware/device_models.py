"""Models of public families' shapes, from 0.1 to 70 billion weights."""

from __future__ import annotations

from flyball.integrations.hardware.device_work import Model


def _model(
    billions: float, num_layers: int, hidden_size: int, kv_width: int, bytes_per_param: float = 2.0
) -> Model:
    """kv_width: heads for keys and values, times their size; both are kept in 16 bits."""
    kv_bytes = 2.0 * 2.0 * num_layers * kv_width
    return Model(billions * 1e9, bytes_per_param, num_layers, hidden_size, kv_bytes)


# Layers, width and key-value width as the families publish them.
MODELS = {
    "0.1B": _model(0.135, 30, 576, 192),  # SmolLM2-135M
    "0.4B": _model(0.362, 32, 960, 320),  # SmolLM2-360M
    "0.5B": _model(0.494, 24, 896, 128),  # Qwen2.5-0.5B
    "1.1B": _model(1.10, 22, 2048, 256),  # TinyLlama
    "1.5B": _model(1.54, 28, 1536, 256),  # Qwen2.5-1.5B
    "3B": _model(3.09, 36, 2048, 256),  # Qwen2.5-3B
    "7B": _model(6.74, 32, 4096, 4096),  # Llama-2-7B: every head keeps its own
    "8B": _model(8.03, 32, 4096, 1024),  # Llama-3-8B
    "13B": _model(13.0, 40, 5120, 5120),  # Llama-2-13B
    "14B-w8": _model(14.8, 48, 5120, 1024, 1.0),  # Qwen2.5-14B
    "32B-w8": _model(32.8, 64, 5120, 1024, 1.0),  # Qwen2.5-32B
    "70B-w4": _model(70.6, 80, 8192, 1024, 0.55),  # Llama-3-70B, scales included
}
# Which small model drafts for which target, where one is drawn.
DRAFTS = {
    "0.4B": "0.1B",
    "1.1B": "0.1B",
    "1.5B": "0.1B",
    "3B": "0.5B",
    "7B": "0.1B",
    "8B": "0.5B",
    "13B": "0.4B",
    "14B-w8": "0.5B",
    "32B-w8": "0.5B",
    "70B-w4": "1.1B",
}
