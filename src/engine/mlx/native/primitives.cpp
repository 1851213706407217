// Our own operations in MLX's graph: evaluated when MLX evaluates, on the thread
// of MLX's CPU stream. They have no gradients and no GPU side.
#include <algorithm>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "attention.h"
#include "blas.h"
#include "error.h"
#include "kernels.h"
#include "loops.h"
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

using Arrays = std::vector<mx::array>;

// Computes `out`, whose memory is there, from `in`.
using Run = std::function<void(const Arrays& in, mx::array& out)>;

class Operation : public mx::UnaryPrimitive {
 public:
  Operation(mx::Stream stream, const char* name, Run run)
      : UnaryPrimitive(stream), name_(name), run_(std::move(run)) {}

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
                      run = run_]() mutable { run(in, out); });
  }

  void eval_gpu(const Arrays&, mx::array&) override {
    throw std::runtime_error("this operation exists on the CPU only");
  }

  const char* name() const override {
    return name_;
  }

 private:
  const char* name_;
  Run run_;
};

mx::Stream cpu_stream() {
  return mx::default_stream(mx::Device(mx::Device::cpu));
}

mx::array make(const char* name, mx::Shape shape, Arrays inputs, Run run) {
  return mx::array(
      std::move(shape), mx::float32,
      std::make_shared<Operation>(cpu_stream(), name, std::move(run)),
      std::move(inputs));
}

// Weights are stored whole; anything else (a slice, a transposition) is brought
// into order first.
mx::array in_order(const mx::array& weight) {
  bool already = weight.status() == mx::array::Status::available &&
      weight.flags().row_contiguous;
  return already ? weight : mx::contiguous(weight, false, cpu_stream());
}

mx::array make_product(
    const mx::array& x, const Arrays& weights, int rows, int group, int bits) {
  auto shape = x.shape();
  shape.back() = rows;
  Arrays inputs{x};
  for (const auto& weight : weights) {
    inputs.push_back(in_order(weight));
  }
  return make(
      "RoundhouseProduct", std::move(shape), std::move(inputs),
      [group, bits](const Arrays& in, mx::array& out) {
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

// Numbers for which waking another thread is worth it.
constexpr int64_t kShare = 1 << 15;

void run_swiglu(const Arrays& in, mx::array& out) {
  Rows gate(in[0]), up(in[1]);
  float* to = out.data<float>();
  in_parallel(
      int64_t(out.size()), kShare, [&](int64_t first, int64_t last) {
        loops().swiglu(
            gate.data + first, up.data + first, last - first, to + first);
      });
}

void run_rms_norm(const Arrays& in, mx::array& out, float epsilon) {
  Rows x(in[0]);
  int64_t size = out.shape(-1);
  int64_t rows = size == 0 ? 0 : int64_t(out.size()) / size;
  std::vector<float> weight(size);
  loops().widen(in[1].data<char>(), format_of(in[1]), size, weight.data());
  for (int64_t row = 0; row < rows; ++row) {
    loops().rms_norm(
        x.data + row * size, weight.data(), epsilon, size,
        out.data<float>() + row * size);
  }
}

void run_rotate(const Arrays& in, mx::array& out, bool neighbours) {
  Rows x(in[0]), cosines(in[1]), sines(in[2]);
  int64_t rows = out.shape(0), heads = out.shape(1), size = out.shape(2);
  int64_t half = in[1].shape(-1);
  int64_t next = neighbours ? 1 : half;
  int64_t stride = neighbours ? 2 : 1;
  for (int64_t row = 0; row < rows; ++row) {
    const float* cosine = cosines.data + row * half;
    const float* sine = sines.data + row * half;
    for (int64_t head = 0; head < heads; ++head) {
      const float* from = x.data + (row * heads + head) * size;
      float* to = out.data<float>() + (row * heads + head) * size;
      for (int64_t i = 0; i < half; ++i) {
        float a = from[i * stride], b = from[i * stride + next];
        to[i * stride] = a * cosine[i] - b * sine[i];
        to[i * stride + next] = a * sine[i] + b * cosine[i];
      }
      std::copy(from + 2 * half, from + size, to + 2 * half);
    }
  }
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

// How scores become shares; what `Attention` says of them.
struct Scores {
  float scale;
  int64_t window;
  float cap;
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

void require(bool condition, const char* message) {
  if (!condition) {
    throw std::invalid_argument(message);
  }
}

void require_float32(const mx::array& x, size_t least, const char* message) {
  require(x.ndim() >= least && x.dtype() == mx::float32, message);
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
