// The part of CBLAS that MLX and our kernels use. Values are those of the
// CBLAS standard.
#pragma once

#include <string>

namespace roundhouse {

enum { kRowMajor = 101, kColumnMajor = 102 };
enum { kNoTranspose = 111, kTranspose = 112 };

// Loads OpenBLAS where that has not happened. Returns what is wrong, or nothing.
std::string blas_load();

// cblas_sgemm in the calling thread.
void blas_sgemm_alone(
    int order, int transpose_a, int transpose_b, int m, int n, int k,
    float alpha, const float* a, int lda, const float* b, int ldb, float beta,
    float* c, int ldc);

} // namespace roundhouse
