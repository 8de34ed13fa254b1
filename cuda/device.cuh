// What the kernels need of a GPU, once; tests/host_cuda.h offers the same to a plain C++ compiler, one block at a time.
#pragma once
#include "philox.cuh"

#ifdef __CUDACC__

#define TL_DEVICE __device__ __forceinline__
#define TL_KERNEL __global__
#define TL_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define TL_SHARED extern __shared__ __align__(16)
#define TL_SYNC() __syncthreads()
#define TL_OPAQUE(x) asm volatile("" : "+r"(x))
#define TL_UNROLL _Pragma("unroll")

namespace traklens {

TL_DEVICE float as_float(u32 bits) { return __uint_as_float(bits); }

TL_DEVICE u32 log2_of(u32 power) { return 31 - __clz(power); }

TL_DEVICE float half_to_float(u32 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"((unsigned short)bits));
    return value;
}

// To the nearest bfloat16, ties to even; NaN stays NaN.
TL_DEVICE u32 to_bfloat16(float value) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// c [16, 8] += a [16, 16] · b [16, 8], fragments of mma.m16n8k16; bfloat16, or float16 if HALF.
template <bool HALF>
TL_DEVICE void multiply_add(float* c, const u32* a, const u32* b) {
    if (HALF) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
}

}  // namespace traklens

#else
#include "host_cuda.h"
#endif
