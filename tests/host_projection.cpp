// The generator and the kernels for ctypes: see test_cuda_host.py.
#include "projection.cu"

using namespace traklens;

extern "C" {

void host_philox(const u32* counter, u32 k0, u32 k1, u32* out) {
    const Words words = philox(counter[0], counter[1], counter[2], counter[3], Key{k0, k1});
    for (int w = 0; w < 4; ++w) out[w] = words.w[w];
}

void host_sjlt_tile(u32 tile, u32 tensor, u32 block, u32 size, u32 k0, u32 k1, long long* place, double* sign) {
    const Affine affine = sjlt_affine(tile, tensor, block, size, Key{k0, k1});
    for (u32 j = 0; j < size; ++j) {
        place[j] = sjlt_place(affine, j, size);
        const Words words = sjlt_signs(tile, tensor, block, j / 128, Key{k0, k1});
        sign[j] = words.w[j % 128 / 32] >> (j % 32) & 1 ? -1 : 1;
    }
}

void host_rademacher_row(u32 coordinate, u32 tensor, u32 columns, u32 k0, u32 k1, double* sign) {
    for (u32 j = 0; j < columns; ++j) {
        const Words words = rademacher_signs(coordinate, tensor, j / 128, Key{k0, k1});
        sign[j] = words.w[j % 128 / 32] >> (j % 32) & 1 ? -1 : 1;
    }
}

#define SJLT(KIND, THREADS, OUTPUTS, ROWS)                                                                              \
    if (kind == KIND && threads == THREADS && outputs == OUTPUTS && rows == ROWS)                                       \
        return launch(grid, THREADS, [=] {                                                                              \
            sjlt<KIND, THREADS, OUTPUTS, ROWS>(g, partial, numel, batch, size, nonzeros, tensor, per_part, k0, k1);     \
        }), 0

int host_sjlt(u32 kind, u32 threads, u32 outputs, u32 rows, u32 x, u32 y, u32 z, const void* g, float* partial, u64 numel,
              u32 batch, u32 size, u32 nonzeros, u32 tensor, u32 per_part, u32 k0, u32 k1) {
    const Dim3 grid = {x, y, z};
    SJLT(F32, 256, 8, 8);
    SJLT(BF16, 256, 8, 8);
    SJLT(F16, 256, 8, 8);
    SJLT(F32, 512, 8, 8);
    SJLT(F32, 512, 16, 4);
    SJLT(F32, 512, 32, 2);
    SJLT(BF16, 512, 32, 2);
    SJLT(F16, 512, 32, 2);
    return 1;
}

int host_rademacher(u32 kind, u32 x, u32 y, u32 z, const void* g, float* partial, u64 numel, u32 batch, u32 k, u32 tensor,
                    u64 per_part, u32 k0, u32 k1) {
    const Dim3 grid = {x, y, z};
    if (kind == F32) launch(grid, 256, [=] { rademacher<F32>(g, partial, numel, batch, k, tensor, per_part, k0, k1); });
    if (kind == BF16) launch(grid, 256, [=] { rademacher<BF16>(g, partial, numel, batch, k, tensor, per_part, k0, k1); });
    if (kind == F16) launch(grid, 256, [=] { rademacher<F16>(g, partial, numel, batch, k, tensor, per_part, k0, k1); });
    return 0;
}

void host_add_parts(const float* partial, float* out, u64 count, u32 parts, float scale) {
    launch(Dim3{(u32)((count + 255) / 256), 1, 1}, 256, [=] { add_parts(partial, out, count, parts, scale); });
}

}  // extern "C"
