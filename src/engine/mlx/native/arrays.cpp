#include "arrays.h"

#include <stdexcept>

#include "mlx/ops.h"
#include "mlx/utils.h"

namespace mx = mlx::core;

namespace roundhouse {

void require(bool condition, const char* message) {
  if (!condition) {
    throw std::invalid_argument(message);
  }
}

void require_float32(const mx::array& x, size_t least, const char* message) {
  require(x.ndim() >= least && x.dtype() == mx::float32, message);
}

Format format_of(const mx::array& array) {
  if (array.dtype() == mx::float32) {
    return Format::float32;
  }
  if (array.dtype() == mx::float16) {
    return Format::float16;
  }
  if (array.dtype() == mx::bfloat16) {
    return Format::bfloat16;
  }
  throw std::invalid_argument(
      "weights must be float32, float16 or bfloat16");
}

mx::Stream cpu_stream() {
  return mx::default_stream(mx::Device(mx::Device::cpu));
}

bool is_in_order(const mx::array& array) {
  return array.status() == mx::array::Status::available &&
      array.flags().row_contiguous;
}

mx::array in_order(const mx::array& weight) {
  return is_in_order(weight) ? weight
                             : mx::contiguous(weight, false, cpu_stream());
}

Rows::Rows(const mx::array& x) {
  if (x.flags().row_contiguous) {
    data = x.data<float>();
    return;
  }
  copy.resize(x.size());
  std::vector<int64_t> index(x.ndim(), 0);
  for (auto& number : copy) {
    int64_t offset = 0;
    for (size_t i = 0; i < index.size(); ++i) {
      offset += index[i] * x.strides(int(i));
    }
    number = x.data<float>()[offset];
    for (size_t i = index.size(); i-- > 0;) {
      if (++index[i] < x.shape(int(i))) {
        break;
      }
      index[i] = 0;
    }
  }
  data = copy.data();
}

Matrix dense_matrix(const mx::array& w, int columns) {
  format_of(w);
  require(
      w.ndim() == 2 && w.shape(1) == columns,
      "weights must be a matrix as wide as the last dimension of x");
  return Matrix{{in_order(w)}, w.shape(0), columns};
}

Matrix packed_matrix(
    const mx::array& words, const mx::array& scales, const mx::array& biases,
    int columns, int group, int bits) {
  require(
      bits == 2 || bits == 3 || bits == 4 || bits == 6 || bits == 8,
      "bits must be 2, 3, 4, 6 or 8");
  require(
      group == 32 || group == 64 || group == 128,
      "the group size must be 32, 64 or 128");
  require(
      words.ndim() == 2 && words.dtype() == mx::uint32,
      "packed weights must be a matrix of uint32");
  require(
      columns % group == 0 && int64_t(words.shape(1)) * 32 == int64_t(columns) * bits,
      "packed weights do not fit the last dimension of x");
  mx::Shape groups{words.shape(0), columns / group};
  require(
      scales.shape() == groups && biases.shape() == groups,
      "scales and biases must have one number for each group");
  require(
      scales.dtype() == biases.dtype(),
      "scales and biases must have one number format");
  format_of(scales);
  return Matrix{
      {in_order(words), in_order(scales), in_order(biases)},
      words.shape(0),
      columns,
      bits,
      group};
}

Weights weights_of(const Matrix& matrix) {
  Weights weights{};
  weights.data = matrix.arrays[0].data<char>();
  weights.rows = matrix.rows;
  weights.columns = matrix.columns;
  weights.bits = matrix.bits;
  weights.group = matrix.group;
  weights.format = format_of(matrix.arrays[matrix.bits == 0 ? 0 : 1]);
  if (matrix.bits != 0) {
    weights.scales = matrix.arrays[1].data<char>();
    weights.biases = matrix.arrays[2].data<char>();
  }
  return weights;
}

} // namespace roundhouse
