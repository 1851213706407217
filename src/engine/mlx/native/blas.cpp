// OpenBLAS in front of the reference BLAS.
//
// The published libmlx is linked to the reference BLAS, about eighteen times
// slower on a matrix product. It needs three functions of it; they are defined
// here, forwarded to OpenBLAS (whose package gives every name the prefix
// `scipy_`), and found first because the binary links this library directly,
// while the reference BLAS is a dependency of a dependency.
#include "blas.h"

extern "C" {
void scipy_cblas_sgemm(
    int, int, int, int, int, int, float, const float*, int, const float*, int,
    float, float*, int);
void scipy_cblas_dgemm(
    int, int, int, int, int, int, double, const double*, int, const double*,
    int, double, double*, int);
void scipy_cblas_cgemm(
    int, int, int, int, int, int, const void*, const void*, int, const void*,
    int, const void*, void*, int);
void scipy_cblas_sgemv(
    int, int, int, int, float, const float*, int, const float*, int, float,
    float*, int);

void cblas_sgemm(
    int order, int transpose_a, int transpose_b, int m, int n, int k,
    float alpha, const float* a, int lda, const float* b, int ldb,
    float beta, float* c, int ldc) {
  // With a single row the general product spends more than half of its time
  // packing B, which is used once. The vector product reads it in place.
  if (order == kRowMajor && m == 1 && n > 0 && k > 0) {
    int step = transpose_a == kNoTranspose ? 1 : lda;
    if (transpose_b == kNoTranspose) {
      scipy_cblas_sgemv(
          kRowMajor, kTranspose, k, n, alpha, b, ldb, a, step, beta, c, 1);
    } else {
      scipy_cblas_sgemv(
          kRowMajor, kNoTranspose, n, k, alpha, b, ldb, a, step, beta, c, 1);
    }
    return;
  }
  scipy_cblas_sgemm(
      order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c,
      ldc);
}

void cblas_dgemm(
    int order, int transpose_a, int transpose_b, int m, int n, int k,
    double alpha, const double* a, int lda, const double* b, int ldb,
    double beta, double* c, int ldc) {
  scipy_cblas_dgemm(
      order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c,
      ldc);
}

void cblas_cgemm(
    int order, int transpose_a, int transpose_b, int m, int n, int k,
    const void* alpha, const void* a, int lda, const void* b, int ldb,
    const void* beta, void* c, int ldc) {
  scipy_cblas_cgemm(
      order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c,
      ldc);
}
}
