/* Puts OpenBLAS in front of the reference BLAS of the published MLX, for the
 * peer: preloaded, these three functions are found before those of the wheel.
 * The package `scipy-openblas32` gives every name the prefix `scipy_`. Nothing
 * is done but forwarding, so what is measured is the peer with another BLAS.
 */

#define FORWARD(name, number, scalar)                                          \
  void scipy_##name(int, int, int, int, int, int, scalar, const number *, int, \
                    const number *, int, scalar, number *, int);               \
  void name(int order, int transpose_a, int transpose_b, int m, int n, int k,  \
            scalar alpha, const number *a, int lda, const number *b, int ldb,  \
            scalar beta, number *c, int ldc) {                                 \
    scipy_##name(order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b,   \
                 ldb, beta, c, ldc);                                           \
  }

FORWARD(cblas_sgemm, float, float)
FORWARD(cblas_dgemm, double, double)
FORWARD(cblas_cgemm, void, const void *)
