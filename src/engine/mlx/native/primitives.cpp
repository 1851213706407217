// The products as operations of MLX's graph: evaluated when MLX evaluates, on
// the thread of MLX's CPU stream. They have no gradients and no GPU side.
#include <memory>
#include <stdexcept>
#include <vector>

#include "blas.h"
#include "error.h"
#include "kernels.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/private/array.h"
#include "mlx/primitives.h"
#include "product.h"
#include "threads.h"

namespace mx = mlx::core;

namespace roundhouse {
namespace {

thread_local std::string last_error;

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

// The numbers of x one after the other: in place where they lie so, else copied.
struct Rows {
  std::vector<float> copy;
  const float* data;

  explicit Rows(const mx::array& x) {
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
};

// inputs: x, the weights, and for quantised ones scales and biases.
class Product : public mx::UnaryPrimitive {
 public:
  Product(mx::Stream stream, int group, int bits)
      : UnaryPrimitive(stream), group_(group), bits_(bits) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    std::vector<mx::array> in;
    for (const auto& input : inputs) {
      in.push_back(mx::array::unsafe_weak_copy(input));
    }
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.dispatch([in = std::move(in),
                      out = mx::array::unsafe_weak_copy(out),
                      group = group_,
                      bits = bits_]() mutable {
      Weights w{};
      w.data = in[1].data<char>();
      w.rows = out.shape(-1);
      w.columns = in[0].shape(-1);
      w.bits = bits;
      w.group = group;
      w.format = format_of(in[bits == 0 ? 1 : 2]);
      if (bits != 0) {
        w.scales = in[2].data<char>();
        w.biases = in[3].data<char>();
      }
      int64_t count = w.columns == 0 ? 0 : int64_t(in[0].size()) / w.columns;
      product(w, Rows(in[0]).data, count, out.data<float>());
    });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw std::runtime_error("this product exists on the CPU only");
  }

  const char* name() const override {
    return "RoundhouseProduct";
  }

  bool is_equivalent(const Primitive& other) const override {
    auto& product = static_cast<const Product&>(other);
    return product.group_ == group_ && product.bits_ == bits_;
  }

 private:
  int group_;
  int bits_;
};

mx::array make_product(
    const mx::array& x, std::vector<mx::array> weights, int rows, int group,
    int bits) {
  auto stream = mx::default_stream(mx::Device(mx::Device::cpu));
  auto shape = x.shape();
  shape.back() = rows;
  std::vector<mx::array> inputs{x};
  for (auto& weight : weights) {
    // Weights are stored whole; anything else (a slice, a transposition) is
    // brought into order first.
    bool in_order = weight.status() == mx::array::Status::available &&
        weight.flags().row_contiguous;
    inputs.push_back(
        in_order ? weight : mx::contiguous(weight, false, stream));
  }
  return mx::array(
      std::move(shape), mx::float32,
      std::make_shared<Product>(stream, group, bits), std::move(inputs));
}

void require(bool condition, const char* message) {
  if (!condition) {
    throw std::invalid_argument(message);
  }
}

void require_vector_of_float32(const mx::array& x) {
  require(x.ndim() >= 1, "x must have at least one dimension");
  require(x.dtype() == mx::float32, "x must be float32");
}

} // namespace

int fail(std::string message) {
  last_error = std::move(message);
  return 1;
}

} // namespace roundhouse

using namespace roundhouse;

extern "C" {

const char* roundhouse_last_error() {
  return last_error.c_str();
}

int roundhouse_prepare(int threads) {
  return guarded([&] {
    std::string problem = blas_load();
    if (!problem.empty()) {
      throw std::runtime_error("cannot load OpenBLAS: " + problem);
    }
    set_threads(threads);
  });
}

int roundhouse_use_instructions(int instructions) {
  return guarded([&] {
    if (!use_instructions(static_cast<Instructions>(instructions))) {
      throw std::runtime_error("this processor lacks these instructions");
    }
  });
}

int roundhouse_quantized_matmul(
    mlx_array* result, mlx_array x_handle, mlx_array packed_handle,
    mlx_array scales_handle, mlx_array biases_handle, int group_size,
    int bits) {
  return guarded([&] {
    const auto& x = mlx_array_get_(x_handle);
    const auto& packed = mlx_array_get_(packed_handle);
    const auto& scales = mlx_array_get_(scales_handle);
    const auto& biases = mlx_array_get_(biases_handle);
    require_vector_of_float32(x);
    require(
        bits == 2 || bits == 3 || bits == 4 || bits == 6 || bits == 8,
        "bits must be 2, 3, 4, 6 or 8");
    require(
        group_size == 32 || group_size == 64 || group_size == 128,
        "the group size must be 32, 64 or 128");
    require(
        packed.ndim() == 2 && packed.dtype() == mx::uint32,
        "packed weights must be a matrix of uint32");
    int64_t columns = x.shape(-1);
    require(
        columns % group_size == 0 && packed.shape(1) * 32 == columns * bits,
        "packed weights do not fit the last dimension of x");
    mx::Shape groups{packed.shape(0), int(columns / group_size)};
    require(
        scales.shape() == groups && biases.shape() == groups,
        "scales and biases must have one number for each group");
    require(
        scales.dtype() == biases.dtype(),
        "scales and biases must have one number format");
    format_of(scales);
    mlx_array_set_(
        *result,
        make_product(
            x, {packed, scales, biases}, packed.shape(0), group_size, bits));
  });
}

int roundhouse_dense_matmul(
    mlx_array* result, mlx_array x_handle, mlx_array w_handle) {
  return guarded([&] {
    const auto& x = mlx_array_get_(x_handle);
    const auto& w = mlx_array_get_(w_handle);
    require_vector_of_float32(x);
    format_of(w);
    require(
        w.ndim() == 2 && w.shape(1) == x.shape(-1),
        "weights must be a matrix as wide as the last dimension of x");
    mlx_array_set_(*result, make_product(x, {w}, w.shape(0), 0, 0));
  });
}
}
