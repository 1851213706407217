// The part of CBLAS that MLX and our kernels use. Values are those of the
// CBLAS standard.
#pragma once

enum { kRowMajor = 101, kColumnMajor = 102 };
enum { kNoTranspose = 111, kTranspose = 112 };

extern "C" {
void cblas_sgemm(
    int order, int transpose_a, int transpose_b, int m, int n, int k,
    float alpha, const float* a, int lda, const float* b, int ldb,
    float beta, float* c, int ldc);
}
