// OpenBLAS in front of the reference BLAS.
//
// The published libmlx is linked to the reference BLAS, about eighteen times
// slower on a matrix product. It needs three functions of it; they are defined
// here, forwarded to OpenBLAS (whose package gives every name the prefix
// `scipy_`), and found first because the binary links this library directly,
// while the reference BLAS is a dependency of a dependency.
//
// OpenBLAS is loaded at the first product, not with the program: it starts its
// threads when it is loaded, and the router needs none. It runs single-threaded;
// products are shared between cores here, by the same threads as all others.
#include "blas.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "threads.h"

namespace roundhouse {
namespace {

using Sgemm = void (*)(
    int, int, int, int, int, int, float, const float*, int, const float*, int,
    float, float*, int);
using Dgemm = void (*)(
    int, int, int, int, int, int, double, const double*, int, const double*,
    int, double, double*, int);
using Cgemm = void (*)(
    int, int, int, int, int, int, const void*, const void*, int, const void*,
    int, const void*, void*, int);
using Sgemv = void (*)(
    int, int, int, int, float, const float*, int, const float*, int, float,
    float*, int);

struct OpenBlas {
  std::string problem;
  Sgemm sgemm = nullptr;
  Dgemm dgemm = nullptr;
  Cgemm cgemm = nullptr;
  Sgemv sgemv = nullptr;

  OpenBlas() {
    // Read once, when the library is loaded.
    setenv("OPENBLAS_NUM_THREADS", "1", 1);
    void* library = dlopen("libscipy_openblas.so", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      problem = dlerror();
      return;
    }
    find(library, "scipy_cblas_sgemm", sgemm);
    find(library, "scipy_cblas_dgemm", dgemm);
    find(library, "scipy_cblas_cgemm", cgemm);
    find(library, "scipy_cblas_sgemv", sgemv);
  }

  template <class Function>
  void find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (function == nullptr && problem.empty()) {
      problem = std::string("OpenBLAS has no function ") + name;
    }
  }
};

const OpenBlas& open_blas() {
  static const OpenBlas loaded;
  return loaded;
}

// For calls out of MLX, which have no way to report that the library is missing.
const OpenBlas& needed() {
  const OpenBlas& blas = open_blas();
  if (!blas.problem.empty()) {
    std::fprintf(stderr, "cannot load OpenBLAS: %s\n", blas.problem.c_str());
    std::abort();
  }
  return blas;
}

// Multiplications below which another thread is not worth waking.
constexpr int64_t kWorthSharing = 1 << 20;

} // namespace

std::string blas_load() {
  return open_blas().problem;
}

void blas_sgemm_alone(
    int order, int transpose_a, int transpose_b, int m, int n, int k,
    float alpha, const float* a, int lda, const float* b, int ldb, float beta,
    float* c, int ldc) {
  // With a single row the general product spends more than half of its time
  // packing B, which is used once. The vector product reads it in place.
  if (order == kRowMajor && m == 1 && n > 0 && k > 0) {
    int step = transpose_a == kNoTranspose ? 1 : lda;
    if (transpose_b == kNoTranspose) {
      needed().sgemv(
          kRowMajor, kTranspose, k, n, alpha, b, ldb, a, step, beta, c, 1);
    } else {
      needed().sgemv(
          kRowMajor, kNoTranspose, n, k, alpha, b, ldb, a, step, beta, c, 1);
    }
    return;
  }
  needed().sgemm(
      order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c,
      ldc);
}

} // namespace roundhouse

using namespace roundhouse;

extern "C" {

void cblas_sgemm(
    int order, int transpose_a, int transpose_b, int m, int n, int k,
    float alpha, const float* a, int lda, const float* b, int ldb, float beta,
    float* c, int ldc) {
  bool shared = order == kRowMajor && int64_t(m) * n * k >= kWorthSharing;
  if (!shared) {
    blas_sgemm_alone(
        order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta,
        c, ldc);
    return;
  }
  in_parallel(n, 16, [&](int64_t first, int64_t last) {
    const float* part = b + first * (transpose_b == kNoTranspose ? 1 : ldb);
    blas_sgemm_alone(
        order, transpose_a, transpose_b, m, int(last - first), k, alpha, a, lda,
        part, ldb, beta, c + first, ldc);
  });
}

void cblas_dgemm(
    int order, int transpose_a, int transpose_b, int m, int n, int k,
    double alpha, const double* a, int lda, const double* b, int ldb,
    double beta, double* c, int ldc) {
  needed().dgemm(
      order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c,
      ldc);
}

void cblas_cgemm(
    int order, int transpose_a, int transpose_b, int m, int n, int k,
    const void* alpha, const void* a, int lda, const void* b, int ldb,
    const void* beta, void* c, int ldc) {
  needed().cgemm(
      order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c,
      ldc);
}
}
