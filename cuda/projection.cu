// Projection of per-sample gradients, φ = Pᵀg, with the matrices of README.md. Compiled at run time (NVRTC).
//
// Gradients of one tensor come as [batch, numel], row-major, in float32, bfloat16 or float16. Every kernel writes sums over
// its own part of the coordinates to partial [parts, batch, k]; `add_parts` adds the parts to the output in a fixed order.
// How a tensor is cut into parts depends on its size alone: no atomics, the same bits on every run and every GPU.
#include "philox.cuh"
#include "device.cuh"

namespace traklens {

enum Kind { F32 = 0, BF16 = 1, F16 = 2 };

// A 32-bit word of the gradient tile: one float32 of a row, or the same coordinate of two neighbouring rows.
template <int KIND>
TL_DEVICE u32 load_word(const void* gradients, u64 numel, u32 batch, u32 pair, u64 i) {
    if (i >= numel) return 0;
    if (KIND == F32) {
        return pair < batch ? ((const u32*)gradients)[pair * numel + i] : 0;
    }
    const unsigned short* half = (const unsigned short*)gradients;
    const u32 low = 2 * pair < batch ? half[2 * pair * numel + i] : 0;
    const u32 high = 2 * pair + 1 < batch ? half[(2 * pair + 1) * numel + i] : 0;
    return low | high << 16;
}

// Add the row (or the two rows) of a word, with their sign turned where `mask` says so.
template <int KIND>
TL_DEVICE void add_word(float* sums, u32 word, u32 mask) {
    if (KIND == F32) {
        sums[0] += as_float(word ^ mask);
    } else if (KIND == BF16) {
        word ^= mask | mask >> 16;
        sums[0] += as_float(word << 16);
        sums[1] += as_float(word & 0xFFFF0000u);
    } else {
        word ^= mask | mask >> 16;
        sums[0] += half_to_float(word & 0xFFFFu);
        sums[1] += half_to_float(word >> 16);
    }
}

TL_DEVICE void sjlt_tables(Affine* affine, u32* signs, u32 tile, u32 tensor, u32 size, u32 nonzeros, Key key, u32 threads) {
    const u32 groups = (size + 127) / 128;
    for (u32 e = threadIdx.x; e < nonzeros * (groups + 1); e += threads) {
        const u32 block = e / (groups + 1), group = e % (groups + 1);
        if (group == groups) {
            affine[block] = sjlt_affine(tile, tensor, block, size, key);
        } else {
            const Words words = sjlt_signs(tile, tensor, block, group, key);
            for (int w = 0; w < 4; ++w) signs[(block * groups + group) * 4 + w] = words.w[w];
        }
    }
}

// Sparse family. Grid: (parts, ⌈batch / ROWS⌉, ⌈k / (THREADS·OUTPUTS)⌉), THREADS threads. Each thread owns OUTPUTS outputs of
// ROWS samples in registers; a tile of T coordinates lies in shared memory, and while it is gathered from, the next one is
// on its way. Index and sign of an output are computed once and serve all ROWS samples.
// Shared memory: two tiles [ROWS / per word, T] and two sets of tables; see `sjlt_shared_words`.
template <int KIND, int THREADS, int OUTPUTS, int ROWS>
TL_KERNEL void TL_BOUNDS(THREADS, 512 / THREADS)
sjlt(const void* gradients, float* partial, u64 numel, u32 batch, u32 size, u32 nonzeros, u32 tensor, u32 tiles_per_part,
     u32 k0, u32 k1) {
    TL_SHARED u32 pool[];
    constexpr u32 PER_WORD = KIND == F32 ? 1 : 2, WORD_ROWS = ROWS / PER_WORD, AHEAD = 16;
    const Key key = {k0, k1};
    const u32 k = size * nonzeros, groups = (size + 127) / 128, words = WORD_ROWS * size;
    const u32 tables = nonzeros * (groups * 4 + 2);
    const bool power = (size & (size - 1)) == 0;
    const u32 shift = power ? log2_of(size) : 0;

    const u32 first_row = blockIdx.y * ROWS, first_pair = first_row / PER_WORD;
    const u64 tiles = (numel + size - 1) / size, begin = (u64)blockIdx.x * tiles_per_part;
    const u64 end = begin + tiles_per_part < tiles ? begin + tiles_per_part : tiles;

    const u32 first_output = blockIdx.z * OUTPUTS * THREADS + threadIdx.x;
    float sums[OUTPUTS][ROWS];
    TL_UNROLL
    for (int n = 0; n < OUTPUTS; ++n) {
        TL_UNROLL
        for (int row = 0; row < ROWS; ++row) sums[n][row] = 0;
    }

    u32 ahead[AHEAD];
    for (u64 step = begin; step <= end; ++step) {  // fetch tile `step`, gather from tile `step − 1`
        const u32 into = step & 1, from = into ^ 1;
        u32 *tile_into = pool + into * words, *table_into = pool + 2 * words + into * tables;
        const bool fetch = step < end;
        if (fetch) {
            TL_UNROLL
            for (u32 m = 0; m < AHEAD; ++m) {
                const u32 e = threadIdx.x + m * THREADS, pair = power ? e >> shift : e / size;
                if (e < words) ahead[m] = load_word<KIND>(gradients, numel, batch, first_pair + pair, step * size + (e - pair * size));
            }
            sjlt_tables((Affine*)table_into, table_into + 2 * nonzeros, (u32)step, tensor, size, nonzeros, key, THREADS);
        }
        if (step > begin) {
            const u32 *tile = pool + from * words, *table = pool + 2 * words + from * tables;
            const Affine* affine = (const Affine*)table;
            const u32* signs = table + 2 * nonzeros;
            u32 mine = first_output;
            TL_OPAQUE(mine);  // block and j of every output are computed anew: kept, they would fill the registers
            TL_UNROLL
            for (int n = 0; n < OUTPUTS; ++n) {
                const u32 output = mine + n * THREADS;
                if (output >= k) continue;
                const u32 block = power ? output >> shift : output / size, j = output - block * size;
                const Affine f = affine[block];
                const u32 place = power ? (f.a * j + f.c) & (size - 1) : sjlt_place(f, j, size);
                const u32 mask = sign_bit(signs[block * groups * 4 + j / 32] >> (j % 32));
                TL_UNROLL
                for (u32 q = 0; q < WORD_ROWS; ++q) add_word<KIND>(&sums[n][q * PER_WORD], tile[q * size + place], mask);
            }
        }
        if (fetch) {
            TL_UNROLL
            for (u32 m = 0; m < AHEAD; ++m) {
                const u32 e = threadIdx.x + m * THREADS;
                if (e < words) tile_into[e] = ahead[m];
            }
            for (u32 e = threadIdx.x + AHEAD * THREADS; e < words; e += THREADS) {  // what did not fit in registers
                const u32 pair = e / size;
                tile_into[e] = load_word<KIND>(gradients, numel, batch, first_pair + pair, step * size + (e - pair * size));
            }
        }
        TL_SYNC();
    }
    TL_UNROLL
    for (int n = 0; n < OUTPUTS; ++n) {
        const u32 output = first_output + n * THREADS;
        if (output >= k) continue;
        TL_UNROLL
        for (int row = 0; row < ROWS; ++row) {
            if (first_row + row < batch) partial[((u64)blockIdx.x * batch + first_row + row) * k + output] = sums[n][row];
        }
    }
}

// Dense family on the tensor cores (mma m16n8k16, float32 accumulation). A block of 256 threads takes 64 samples and 512
// columns; warp w the 64 columns of half w mod 2 of the group of 128 that one Philox counter signs. The matrix exists only
// as register fragments. float32 gradients are split into three bfloat16 parts, which hold all 24 bits.
// Grid: (parts, ⌈k / 512⌉, ⌈batch / 64⌉).
constexpr u32 STEP = 64, SAMPLES = 64, COLUMNS = 512, STRIDE = STEP / 2 + 4;  // STRIDE in words: no bank conflicts

template <int KIND>
TL_KERNEL void TL_BOUNDS(256, 1)
rademacher(const void* gradients, float* partial, u64 numel, u32 batch, u32 k, u32 tensor, u64 coordinates_per_part, u32 k0, u32 k1) {
    TL_SHARED u32 pool[];
    constexpr int SPLITS = KIND == F32 ? 3 : 1;
    u32* tile = pool;                               // [SPLITS][SAMPLES][STRIDE]: two coordinates a word
    u32* signs = pool + SPLITS * SAMPLES * STRIDE;  // [COLUMNS / 128][STEP][4]
    const Key key = {k0, k1};
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = warp / 2, half = warp % 2;
    const u32 first_row = blockIdx.z * SAMPLES, first_group = blockIdx.y * (COLUMNS / 128);
    const u64 begin = blockIdx.x * coordinates_per_part;
    const u64 end = begin + coordinates_per_part < numel ? begin + coordinates_per_part : numel;
    const u32 ones = KIND == F16 ? 0x3C003C00u : 0x3F803F80u;  // two times 1.0

    float sums[4][8][4];  // [16 samples][8 columns][fragment]
    TL_UNROLL
    for (int m = 0; m < 4; ++m) {
        TL_UNROLL
        for (int n = 0; n < 8; ++n) {
            TL_UNROLL
            for (int c = 0; c < 4; ++c) sums[m][n][c] = 0;
        }
    }

    for (u64 start = begin; start < end; start += STEP) {
        for (u32 e = threadIdx.x; e < SAMPLES * STEP / 2; e += 256) {
            const u32 row = e / (STEP / 2), w = e % (STEP / 2);
            u32 parts[3] = {0, 0, 0};
            for (int side = 0; side < 2; ++side) {
                const u64 i = start + 2 * w + side;
                if (first_row + row >= batch || i >= end) continue;
                const u64 at = (u64)(first_row + row) * numel + i;
                if (KIND == F32) {
                    float rest = ((const float*)gradients)[at];
                    for (int s = 0; s < 3; ++s) {
                        const u32 part = to_bfloat16(rest);
                        rest -= as_float(part << 16);
                        parts[s] |= part << (16 * side);
                    }
                } else {
                    parts[0] |= (u32)((const unsigned short*)gradients)[at] << (16 * side);
                }
            }
            for (int s = 0; s < SPLITS; ++s) tile[(s * SAMPLES + row) * STRIDE + w] = parts[s];
        }
        {
            const u32 g = threadIdx.x / STEP, i = threadIdx.x % STEP;
            const Words words = rademacher_signs((u32)(start + i), tensor, first_group + g, key);
            for (int w = 0; w < 4; ++w) signs[(g * STEP + i) * 4 + w] = words.w[w];
        }
        TL_SYNC();
        TL_UNROLL
        for (u32 inner = 0; inner < STEP / 16; ++inner) {
            u32 b[8][2];
            TL_UNROLL
            for (u32 v = 0; v < 2; ++v) {
                const u32* at = signs + (group * STEP + inner * 16 + (lane % 4) * 2) * 4 + half * 2 + v;
                const u32 s0 = at[0] >> (lane / 4), s1 = at[4] >> (lane / 4), s8 = at[32] >> (lane / 4), s9 = at[36] >> (lane / 4);
                TL_UNROLL
                for (u32 n = 0; n < 4; ++n) {
                    b[v * 4 + n][0] = ones | (s0 >> 8 * n & 1) << 15 | (s1 >> 8 * n & 1) << 31;
                    b[v * 4 + n][1] = ones | (s8 >> 8 * n & 1) << 15 | (s9 >> 8 * n & 1) << 31;
                }
            }
            TL_UNROLL
            for (int s = 0; s < SPLITS; ++s) {
                TL_UNROLL
                for (u32 m = 0; m < 4; ++m) {
                    const u32* at = tile + (s * SAMPLES + m * 16 + lane / 4) * STRIDE + inner * 8 + lane % 4;
                    const u32 a[4] = {at[0], at[8 * STRIDE], at[4], at[8 * STRIDE + 4]};
                    TL_UNROLL
                    for (int n = 0; n < 8; ++n) multiply_add<KIND == F16>(sums[m][n], a, b[n]);
                }
            }
        }
        TL_SYNC();
    }
    TL_UNROLL
    for (u32 m = 0; m < 4; ++m) {
        TL_UNROLL
        for (u32 n = 0; n < 8; ++n) {
            TL_UNROLL
            for (u32 c = 0; c < 4; ++c) {
                const u32 row = first_row + m * 16 + lane / 4 + c / 2 * 8;
                const u32 column = (first_group + group) * 128 + half * 64 + n * 8 + (lane % 4) * 2 + c % 2;
                if (row < batch && column < k) partial[((u64)blockIdx.x * batch + row) * k + column] = sums[m][n][c];
            }
        }
    }
}

// out [count] += scale · Σ over the parts, in their order. Grid: ⌈count / 256⌉ blocks of 256 threads.
TL_KERNEL void TL_BOUNDS(256, 4) add_parts(const float* partial, float* out, u64 count, u32 parts, float scale) {
    const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
    if (i >= count) return;
    float sum = 0;
    for (u32 part = 0; part < parts; ++part) sum += partial[part * count + i];
    out[i] += scale * sum;
}

}  // namespace traklens
