// The generator and the matrices of README.md, for NVRTC, nvcc and any C++17 compiler: the host build is what tests
// compare, bit for bit, with engine/projection/definition.py.
#pragma once

#ifdef __CUDACC__
#define TL_ANY __host__ __device__ __forceinline__
#else
#define TL_ANY inline
#endif

namespace traklens {

typedef unsigned int u32;
typedef unsigned long long u64;

struct Words {
    u32 w[4];
};

struct Key {
    u32 k0, k1;
};

// Philox4x32-10 (Salmon et al. 2011).
TL_ANY Words philox(u32 c0, u32 c1, u32 c2, u32 c3, Key key) {
    for (int round = 0; round < 10; ++round) {
        const u64 p0 = (u64)0xD2511F53u * c0, p1 = (u64)0xCD9E8D57u * c2;
        c0 = (u32)(p1 >> 32) ^ c1 ^ key.k0;
        c1 = (u32)p1;
        c2 = (u32)(p0 >> 32) ^ c3 ^ key.k1;
        c3 = (u32)p0;
        key.k0 += 0x9E3779B9u;
        key.k1 += 0xBB67AE85u;
    }
    return Words{{c0, c1, c2, c3}};
}

TL_ANY u32 gcd(u32 a, u32 b) {
    while (b) {
        const u32 rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

// sjlt: output j of block r of tile t takes coordinate (a·j + c) mod T of the tile.
struct Affine {
    u32 a, c;
};

TL_ANY Affine sjlt_affine(u32 tile, u32 tensor, u32 block, u32 size, Key key) {
    const Words words = philox(tile, tensor, block, 0, key);
    Affine found = {words.w[0] % size, words.w[1] % size};
    while (gcd(found.a, size) != 1) found.a = (found.a + 1) % size;
    return found;
}

TL_ANY u32 sjlt_place(Affine affine, u32 j, u32 size) {
    return (u32)(((u64)affine.a * j + affine.c) % size);
}

// The four words whose 128 bits are the signs of outputs 128·group … of the block; a bit 1 means −1.
TL_ANY Words sjlt_signs(u32 tile, u32 tensor, u32 block, u32 group, Key key) {
    return philox(tile, tensor, block, 1 + group, key);
}

// rademacher: the signs of coordinate i in columns 128·group …
TL_ANY Words rademacher_signs(u32 coordinate, u32 tensor, u32 group, Key key) {
    return philox(coordinate, tensor, group, 0, key);
}

// +x or −x, by the lowest bit of `bits`.
TL_ANY u32 sign_bit(u32 bits) { return bits << 31; }

}  // namespace traklens
