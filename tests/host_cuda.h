// A GPU for tests, on the processor: the threads of one block are fibers that take turns at every TL_SYNC and every
// multiply_add, blocks run one after the other. Slow, exact about indices, and enough to find a wrong one without a GPU.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define TL_DEVICE inline
#define TL_KERNEL static
#define TL_BOUNDS(threads, blocks)
#define TL_SHARED extern
#define TL_SYNC() host_yield()
#define TL_OPAQUE(x)
#define TL_UNROLL

namespace traklens {

struct Dim3 {
    u32 x, y, z;
};
static Dim3 blockIdx, threadIdx;
u32 pool[1 << 16];  // shared memory: more than any GPU has

static ucontext_t scheduler;
static std::vector<ucontext_t> fibers;
static u32 running;
static void host_yield() { swapcontext(&fibers[running], &scheduler); }

inline float as_float(u32 bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline u32 log2_of(u32 power) { return 31 - __builtin_clz(power); }

inline float half_to_float(u32 bits) {
    const u32 exponent = bits >> 10 & 31, fraction = bits & 1023;
    float value = exponent == 31 ? (fraction ? NAN : INFINITY)
                  : exponent ? std::ldexp(1.0f + fraction / 1024.0f, (int)exponent - 15)
                             : std::ldexp(fraction / 1024.0f, -14);
    return bits & 0x8000 ? -value : value;
}

inline u32 to_bfloat16(float value) {
    u32 bits;
    std::memcpy(&bits, &value, 4);
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

struct Fragments {
    u32 a[4], b[2];
};
static Fragments handed[256];

// The fragment layout of mma.m16n8k16, from the PTX manual: lane = 4·g + t.
template <bool HALF>
inline void multiply_add(float* c, const u32* a, const u32* b) {
    std::memcpy(handed[running].a, a, 16);
    std::memcpy(handed[running].b, b, 8);
    host_yield();
    const Fragments* warp = handed + running / 32 * 32;
    auto value = [](u32 word, u32 high) {
        const u32 bits = high ? word >> 16 : word & 0xFFFF;
        return HALF ? half_to_float(bits) : as_float(bits << 16);
    };
    const u32 lane = running % 32;
    for (u32 n = 0; n < 4; ++n) {
        const u32 row = lane / 4 + n / 2 * 8, column = lane % 4 * 2 + n % 2;
        for (u32 k = 0; k < 16; ++k) {
            const u32 t = k % 8 / 2, high = k % 2;
            const float x = value(warp[row % 8 * 4 + t].a[row / 8 + k / 8 * 2], high);
            const float y = value(warp[column * 4 + t].b[k / 8], high);
            c[n] += x * y;
        }
    }
    host_yield();
}

static std::function<void()> body;
static std::vector<char> done;
static void fiber_main() {
    body();
    done[running] = 1;
}

// Run a kernel over a grid, `threads` fibers a block.
template <typename Work>
void launch(Dim3 grid, u32 threads, Work work) {
    constexpr size_t STACK = 128 * 1024;
    std::unique_ptr<char[]> stacks(new char[STACK * threads]);
    body = work;
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
                std::memset(pool, 0xFF, sizeof pool);  // NaN: what is read before it is written shows
                fibers.assign(threads, ucontext_t());
                done.assign(threads, 0);
                for (u32 t = 0; t < threads; ++t) {
                    getcontext(&fibers[t]);
                    fibers[t].uc_stack.ss_sp = stacks.get() + STACK * t;
                    fibers[t].uc_stack.ss_size = STACK;
                    fibers[t].uc_link = &scheduler;
                    makecontext(&fibers[t], fiber_main, 0);
                }
                for (bool any = true; any;) {
                    any = false;
                    for (u32 t = 0; t < threads; ++t) {
                        if (done[t]) continue;
                        any = true;
                        running = t;
                        threadIdx = {t, 0, 0};
                        swapcontext(&scheduler, &fibers[t]);
                    }
                }
            }
}

}  // namespace traklens
