"""A thread beside decoding has no OpenMP team of its own, and others keep theirs."""

from __future__ import annotations

import threading

import torch

from flyball.controller.lone_thread import LoneThread


def number_of_a_new_thread() -> int:
    """How many threads torch's operators have in a thread that is started now."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_its_operators_run_on_it_alone_and_those_of_others_as_before() -> None:
    torch.set_num_threads(3)
    found: list[int] = []
    thread = LoneThread(lambda: found.append(torch.get_num_threads()), "worker")
    thread.start()
    thread.join()
    assert found == [1]
    assert torch.get_num_threads() == 3
    assert number_of_a_new_thread() == 3
