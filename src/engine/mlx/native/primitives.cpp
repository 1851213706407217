// Our own operations in MLX's graph: evaluated when MLX evaluates, on the thread
// of MLX's CPU stream. They have no gradients and no GPU side.
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "arrays.h"
#include "attention.h"
#include "blas.h"
#include "error.h"
#include "kernels.h"
#include "loops.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/private/array.h"
#include "mlx/primitives.h"
#include "product.h"
#include "rows.h"
#include "threads.h"

namespace mx = mlx::core;

namespace roundhouse {
namespace {

thread_local std::string last_error;

// Computes `out`, whose memory is there, from `in`.
using Run = std::function<void(const Arrays& in, mx::array& out)>;

class Operation : public mx::UnaryPrimitive {
 public:
  Operation(mx::Stream stream, const char* name, Run run)
      : UnaryPrimitive(stream), name_(name),
        run_(std::make_shared<const Run>(std::move(run))) {}

  void eval_cpu(const Arrays& inputs, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    Arrays in;
    in.reserve(inputs.size());
    for (const auto& input : inputs) {
      in.push_back(mx::array::unsafe_weak_copy(input));
    }
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.dispatch([in = std::move(in),
                      out = mx::array::unsafe_weak_copy(out),
                      run = run_]() mutable { (*run)(in, out); });
  }

  void eval_gpu(const Arrays&, mx::array&) override {
    throw std::runtime_error("this operation exists on the CPU only");
  }

  const char* name() const override {
    return name_;
  }

 private:
  const char* name_;
  // The stream's thread may be at it when the operation is gone.
  std::shared_ptr<const Run> run_;
};

mx::array make(const char* name, mx::Shape shape, Arrays inputs, Run run) {
  return mx::array(
      std::move(shape), mx::float32,
      std::make_shared<Operation>(cpu_stream(), name, std::move(run)),
      std::move(inputs));
}

mx::array make_product(const mx::array& x, Matrix matrix) {
  auto shape = x.shape();
  shape.back() = matrix.rows;
  Arrays inputs{x};
  inputs.insert(inputs.end(), matrix.arrays.begin(), matrix.arrays.end());
  return make(
      "RoundhouseProduct", std::move(shape), std::move(inputs),
      [matrix = std::move(matrix)](const Arrays& in, mx::array& out) {
        int64_t columns = matrix.columns;
        int64_t count = columns == 0 ? 0 : int64_t(in[0].size()) / columns;
        product(weights_of(matrix), Rows(in[0]).data, count, out.data<float>());
      });
}

void run_swiglu(const Arrays& in, mx::array& out) {
  Rows gate(in[0]), up(in[1]);
  gate_numbers(gate.data, up.data, int64_t(out.size()), out.data<float>());
}

void run_rms_norm(const Arrays& in, mx::array& out, float epsilon) {
  Rows x(in[0]);
  int64_t size = out.shape(-1);
  int64_t rows = size == 0 ? 0 : int64_t(out.size()) / size;
  norm_rows(
      in[1].data<char>(), format_of(in[1]), epsilon, size, x.data, rows,
      out.data<float>());
}

void run_rotate(const Arrays& in, mx::array& out, bool neighbours) {
  Rows x(in[0]), cosines(in[1]), sines(in[2]);
  Angles angles{cosines.data, sines.data, in[1].shape(-1), neighbours};
  turn_rows(
      angles, x.data, out.shape(0), out.shape(1), out.shape(2),
      out.data<float>());
}

// One array of keys or values, [heads, tokens, width], each head's rows one after
// the other: in place where they lie so, as in a cache with room behind the tokens.
template <typename Number>
struct Heads {
  std::vector<Number> copy;
  const Number* data;
  int64_t step;

  explicit Heads(const mx::array& array) : data(array.data<Number>()) {
    int64_t tokens = array.shape(1), width = array.shape(2);
    bool whole_rows = array.strides(2) == 1 || width == 1;
    if (whole_rows && (array.strides(1) == width || tokens == 1)) {
      step = array.strides(0);
      return;
    }
    step = tokens * width;
    copy.reserve(array.size());
    for (int head = 0; head < array.shape(0); ++head) {
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t i = 0; i < width; ++i) {
          copy.push_back(data
                             [head * array.strides(0) + t * array.strides(1) +
                              i * array.strides(2)]);
        }
      }
    }
    data = copy.data();
  }
};

// Packed keys or values with what belongs to them.
struct PackedHeads {
  Heads<uint32_t> words;
  Heads<float> scales;
  Heads<float> biases;

  PackedHeads(
      const mx::array& words, const mx::array& scales, const mx::array& biases)
      : words(words), scales(scales), biases(biases) {}

  HeldRows held(int bits, int group) const {
    return HeldRows{
        words.data,  words.step,  bits,        group,
        scales.data, scales.step, biases.data, biases.step};
  }
};

void attend_held(
    const Arrays& in, const HeldRows& keys, const HeldRows& values,
    const float* sinks, mx::array& out, Scores scores) {
  Rows queries(in[0]);
  Attention a{};
  a.queries = queries.data;
  a.keys = keys;
  a.values = values;
  a.rows = in[0].shape(0);
  a.query_heads = in[0].shape(1);
  a.size = in[0].shape(2);
  a.key_heads = in[1].shape(0);
  a.tokens = in[1].shape(1);
  a.scale = scores.scale;
  a.window = scores.window;
  a.cap = scores.cap;
  a.sinks = sinks;
  attend(a, out.data<float>());
}

// Queries, keys, values and, if there are any, sinks.
void run_attention(const Arrays& in, mx::array& out, Scores scores) {
  Heads<float> keys(in[1]), values(in[2]);
  const float* sinks = in.size() == 4 ? in[3].data<float>() : nullptr;
  attend_held(
      in, HeldRows{keys.data, keys.step}, HeldRows{values.data, values.step},
      sinks, out, scores);
}

// Queries, three arrays of keys, three of values and, if there are any, sinks.
void run_packed_attention(
    const Arrays& in, mx::array& out, Scores scores, int bits, int group) {
  PackedHeads keys(in[1], in[2], in[3]), values(in[4], in[5], in[6]);
  const float* sinks = in.size() == 8 ? in[7].data<float>() : nullptr;
  attend_held(
      in, keys.held(bits, group), values.held(bits, group), sinks, out, scores);
}

void require_vector_of_float32(const mx::array& x) {
  require_float32(x, 1, "x must be float32, of one dimension or more");
}

// `keys` has one row for each token, of heads of `size`.
void require_attention(
    const mx::array& queries, const mx::array& keys, int size, int window) {
  require(
      queries.ndim() == 3 && queries.dtype() == mx::float32,
      "queries must have three dimensions of float32");
  require(size == queries.shape(2), "keys must have the head size of queries");
  require(
      keys.shape(0) > 0 && queries.shape(1) % keys.shape(0) == 0,
      "query heads must divide by key heads");
  require(
      keys.shape(1) >= queries.shape(0),
      "keys must hold at least the rows of queries");
  require(window >= 0, "a window cannot be negative");
}

void add_sinks(Arrays& inputs, const mx::array& queries, const mlx_array* handle) {
  if (handle == nullptr) {
    return;
  }
  const auto& sinks = mlx_array_get_(*handle);
  require(
      sinks.ndim() == 1 && sinks.shape(0) == queries.shape(1) &&
          sinks.dtype() == mx::float32,
      "sinks must be float32, one for each query head");
  inputs.push_back(in_order(sinks));
}

mx::Shape attended_shape(const mx::array& queries) {
  return mx::Shape{queries.shape(0), queries.shape(1) * queries.shape(2)};
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
    mlx_array_set_(
        *result,
        make_product(
            x,
            packed_matrix(
                packed, scales, biases, x.shape(-1), group_size, bits)));
  });
}

int roundhouse_dense_matmul(
    mlx_array* result, mlx_array x_handle, mlx_array w_handle) {
  return guarded([&] {
    const auto& x = mlx_array_get_(x_handle);
    const auto& w = mlx_array_get_(w_handle);
    require_vector_of_float32(x);
    mlx_array_set_(*result, make_product(x, dense_matrix(w, x.shape(-1))));
  });
}

int roundhouse_rms_norm(
    mlx_array* result, mlx_array x_handle, mlx_array weight_handle,
    float epsilon) {
  return guarded([&] {
    const auto& x = mlx_array_get_(x_handle);
    const auto& weight = mlx_array_get_(weight_handle);
    require_vector_of_float32(x);
    format_of(weight);
    require(
        weight.ndim() == 1 && weight.shape(0) == x.shape(-1),
        "the weight must be as long as the last dimension of x");
    mlx_array_set_(
        *result,
        make(
            "RoundhouseRmsNorm", x.shape(), {x, in_order(weight)},
            [epsilon](const Arrays& in, mx::array& out) {
              run_rms_norm(in, out, epsilon);
            }));
  });
}

int roundhouse_swiglu(
    mlx_array* result, mlx_array gate_handle, mlx_array up_handle) {
  return guarded([&] {
    const auto& gate = mlx_array_get_(gate_handle);
    const auto& up = mlx_array_get_(up_handle);
    require_float32(gate, 0, "gate must be float32");
    require_float32(up, 0, "up must be float32");
    require(gate.shape() == up.shape(), "gate and up must have one shape");
    mlx_array_set_(
        *result, make("RoundhouseSwiglu", gate.shape(), {gate, up}, run_swiglu));
  });
}

int roundhouse_rotate(
    mlx_array* result, mlx_array x_handle, mlx_array cosines_handle,
    mlx_array sines_handle, int neighbours) {
  return guarded([&] {
    const auto& x = mlx_array_get_(x_handle);
    const auto& cosines = mlx_array_get_(cosines_handle);
    const auto& sines = mlx_array_get_(sines_handle);
    require_float32(cosines, 1, "cosines must be float32");
    require_float32(sines, 1, "sines must be float32");
    require(
        x.ndim() == 3 && x.dtype() == mx::float32,
        "x must be [rows, heads, size] in float32");
    mx::Shape angles{x.shape(0), 1, cosines.shape(-1)};
    require(
        cosines.shape() == angles && sines.shape() == angles &&
            2 * angles.back() <= x.shape(2),
        "cosines and sines must be [rows, 1, at most half of size]");
    mlx_array_set_(
        *result,
        make(
            "RoundhouseRotate", x.shape(), {x, cosines, sines},
            [neighbours](const Arrays& in, mx::array& out) {
              run_rotate(in, out, neighbours != 0);
            }));
  });
}

int roundhouse_attention(
    mlx_array* result, mlx_array queries_handle, mlx_array keys_handle,
    mlx_array values_handle, float scale, int window, float cap,
    const mlx_array* sinks_handle) {
  return guarded([&] {
    const auto& queries = mlx_array_get_(queries_handle);
    const auto& keys = mlx_array_get_(keys_handle);
    const auto& values = mlx_array_get_(values_handle);
    for (const auto* array : {&keys, &values}) {
      require(
          array->ndim() == 3 && array->dtype() == mx::float32,
          "keys and values must have three dimensions of float32");
    }
    require_attention(queries, keys, keys.shape(2), window);
    require(
        keys.shape() == values.shape(), "keys and values must have one shape");
    Arrays inputs{queries, keys, values};
    add_sinks(inputs, queries, sinks_handle);
    Scores scores{scale, window, cap};
    mlx_array_set_(
        *result,
        make(
            "RoundhouseAttention", attended_shape(queries), std::move(inputs),
            [scores](const Arrays& in, mx::array& out) {
              run_attention(in, out, scores);
            }));
  });
}

int roundhouse_packed_attention(
    mlx_array* result, mlx_array queries_handle, const mlx_array* handles,
    int group_size, int bits, float scale, int window, float cap,
    const mlx_array* sinks_handle) {
  return guarded([&] {
    const auto& queries = mlx_array_get_(queries_handle);
    Arrays inputs{queries};
    for (int i = 0; i < 6; ++i) {
      inputs.push_back(mlx_array_get_(handles[i]));
    }
    require(
        (bits == 4 || bits == 8) && (group_size == 32 || group_size == 64 || group_size == 128),
        "groups of 32, 64 or 128 integers of 4 or 8 bits");
    for (int i = 1; i <= 6; ++i) {
      bool words = i == 1 || i == 4;
      require(
          inputs[i].ndim() == 3 &&
              inputs[i].dtype() == (words ? mx::uint32 : mx::float32),
          "keys and values must be words with float32 scales and biases");
    }
    int size = inputs[1].shape(2) * 32 / bits;
    require_attention(queries, inputs[1], size, window);
    require(
        size % group_size == 0 && inputs[1].shape() == inputs[4].shape(),
        "keys and values must have one shape, of whole groups");
    mx::Shape groups{
        inputs[1].shape(0), inputs[1].shape(1), size / group_size};
    for (int i : {2, 3, 5, 6}) {
      require(inputs[i].shape() == groups, "a scale and a bias for each group");
    }
    add_sinks(inputs, queries, sinks_handle);
    Scores scores{scale, window, cap};
    mlx_array_set_(
        *result,
        make(
            "RoundhousePackedAttention", attended_shape(queries),
            std::move(inputs),
            [scores, bits, group_size](const Arrays& in, mx::array& out) {
              run_packed_attention(in, out, scores, bits, group_size);
            }));
  });
}
}
