/* A test double of NVML at its C boundary: its state is a file that tests write. */

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7
};

/* Mirrored by fake_nvml.py. */
struct state {
    int init_error, read_error, set_error; /* return codes, 0 for success */
    int energy_supported, power_supported, clocks_supported;
    unsigned graphics_lock, memory_lock; /* MHz, 0 for none */
    unsigned power_limit, default_limit, least_limit, most_limit, power; /* mW */
    unsigned temperature;
    unsigned long long energy; /* mJ */
    unsigned num_sets;
};

typedef struct state *device;

static const unsigned GRAPHICS[] = {1980, 1965, 1500, 1005, 510, 210};
static const unsigned MEMORY[] = {2619, 1593, 100}; /* the last is an idle clock */
static const char UUID[] = "GPU-fake-0";

static device state(void) {
    static device mapped;
    if (!mapped) {
        int file = open(getenv("FAKE_NVML_STATE"), O_RDWR);
        mapped = mmap(NULL, sizeof *mapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
    }
    return mapped;
}

#define READ(device)                                                                              \
    do {                                                                                          \
        if ((device)->read_error) return (device)->read_error;                                    \
    } while (0)
#define SET(device)                                                                               \
    do {                                                                                          \
        READ(device);                                                                             \
        if ((device)->set_error) return (device)->set_error;                                      \
        (device)->num_sets++;                                                                     \
    } while (0)

int nvmlInitWithFlags(unsigned flags) { (void)flags; return state()->init_error; }
int nvmlShutdown(void) { return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device *found) {
    *found = state();
    return index ? INVALID_ARGUMENT : SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device *found) {
    *found = state();
    return strcmp(uuid, UUID) ? NOT_FOUND : (*found)->read_error;
}

int nvmlDeviceGetUUID(device gpu, char *text, unsigned length) {
    READ(gpu);
    strncpy(text, UUID, length);
    return SUCCESS;
}

int nvmlDeviceGetName(device gpu, char *text, unsigned length) {
    READ(gpu);
    strncpy(text, "Fake H100", length);
    return SUCCESS;
}

static int list(const unsigned *from, unsigned length, unsigned *count, unsigned *clocks) {
    if (!clocks || *count < length) {
        *count = length;
        return INSUFFICIENT_SIZE;
    }
    memcpy(clocks, from, length * sizeof *from);
    *count = length;
    return SUCCESS;
}

int nvmlDeviceGetSupportedMemoryClocks(device gpu, unsigned *count, unsigned *clocks) {
    READ(gpu);
    if (!gpu->clocks_supported) return NOT_SUPPORTED;
    return list(MEMORY, 3, count, clocks);
}

int nvmlDeviceGetSupportedGraphicsClocks(
    device gpu, unsigned memory, unsigned *count, unsigned *clocks) {
    READ(gpu);
    /* At the idle clock the lowest alone; at the second all but one. */
    if (memory == 100) return list(GRAPHICS + 5, 1, count, clocks);
    return list(GRAPHICS, memory == 2619 ? 6 : 5, count, clocks);
}

static int known(const unsigned *from, unsigned length, unsigned clock) {
    for (unsigned i = 0; i < length; i++)
        if (from[i] == clock) return 1;
    return 0;
}

int nvmlDeviceSetGpuLockedClocks(device gpu, unsigned least, unsigned most) {
    if (least != most || !known(GRAPHICS, 6, least)) return INVALID_ARGUMENT;
    SET(gpu);
    gpu->graphics_lock = least;
    return SUCCESS;
}

int nvmlDeviceResetGpuLockedClocks(device gpu) {
    SET(gpu);
    gpu->graphics_lock = 0;
    return SUCCESS;
}

int nvmlDeviceSetMemoryLockedClocks(device gpu, unsigned least, unsigned most) {
    if (least != most || !known(MEMORY, 3, least)) return INVALID_ARGUMENT;
    SET(gpu);
    gpu->memory_lock = least;
    return SUCCESS;
}

int nvmlDeviceResetMemoryLockedClocks(device gpu) {
    SET(gpu);
    gpu->memory_lock = 0;
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementLimit(device gpu, unsigned *limit) {
    READ(gpu);
    *limit = gpu->power_limit;
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementLimitConstraints(device gpu, unsigned *least, unsigned *most) {
    READ(gpu);
    *least = gpu->least_limit;
    *most = gpu->most_limit;
    return SUCCESS;
}

int nvmlDeviceSetPowerManagementLimit(device gpu, unsigned limit) {
    if (limit < gpu->least_limit || limit > gpu->most_limit) return INVALID_ARGUMENT;
    SET(gpu);
    gpu->power_limit = limit;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(device gpu, int kind, unsigned *clock) {
    READ(gpu);
    unsigned lock = kind == 2 ? gpu->memory_lock : gpu->graphics_lock; /* 2: memory */
    *clock = lock ? lock : kind == 2 ? MEMORY[0] : GRAPHICS[0];
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(device gpu, unsigned *power) {
    READ(gpu);
    if (!gpu->power_supported) return NOT_SUPPORTED;
    *power = gpu->power;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(device gpu, int sensor, unsigned *temperature) {
    (void)sensor;
    READ(gpu);
    *temperature = gpu->temperature;
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(device gpu, unsigned long long *energy) {
    READ(gpu);
    if (!gpu->energy_supported) return NOT_SUPPORTED;
    *energy = gpu->energy;
    return SUCCESS;
}
