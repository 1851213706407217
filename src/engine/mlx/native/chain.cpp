// Several operations on the same few rows as one node of MLX's graph: what is
// between them is no array, and MLX evaluates, allocates and hands over once for all
// of them. They compute by the same functions as the operations that are nodes of
// their own, and so give the same numbers.
#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "arrays.h"
#include "attention.h"
#include "error.h"
#include "kernels.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/private/array.h"
#include "mlx/primitives.h"
#include "product.h"
#include "rows.h"

namespace mx = mlx::core;

namespace roundhouse {
namespace {

// What the steps of a chain work on: for each of its numbers `rows` rows, and the
// caches that they write to.
struct Work {
  int64_t rows;
  std::vector<float*> numbers;
  std::vector<float*> caches;
};

using Step = std::function<void(const Work&)>;

// Numbers begin at the start of a cache line: vectors that lie across two cost a
// second load each.
constexpr size_t kLine = 64;

// Of numbers whose rows are so wide, all rows.
size_t bytes_of(int64_t width, int64_t rows) {
  return (size_t(width * rows) * sizeof(float) + kLine - 1) / kLine * kLine;
}

// Memory of MLX's for as long as the steps run.
class Scratch {
 public:
  explicit Scratch(size_t bytes)
      : buffer_(mx::allocator::malloc(bytes + kLine)) {
    auto begin = reinterpret_cast<uintptr_t>(buffer_.raw_ptr());
    next_ = reinterpret_cast<char*>((begin + kLine - 1) / kLine * kLine);
  }
  ~Scratch() {
    mx::allocator::free(buffer_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* take(size_t bytes) {
    char* taken = next_;
    next_ += bytes;
    return reinterpret_cast<float*>(taken);
  }

 private:
  mx::allocator::Buffer buffer_;
  char* next_;
};

struct Chain {
  int rows;
  // What has to be there before the steps run; the first are the rows that go in.
  Arrays inputs;
  // Of each of its numbers; the first are those that go in.
  std::vector<int> widths;
  std::vector<Step> steps;
  // The caches that steps write to, [heads, room, size].
  Arrays caches;
  // Which of its numbers come out.
  int result = 0;

  int width(int numbers) const {
    require(
        numbers >= 0 && size_t(numbers) < widths.size(),
        "the chain has no such numbers");
    return widths[numbers];
  }

  // An array that steps read: they hold it themselves.
  mx::array read(const mx::array& array) {
    mx::array whole = in_order(array);
    if (!is_in_order(whole)) {
      inputs.push_back(whole);
    }
    return whole;
  }

  Matrix read(Matrix matrix) {
    for (const auto& array : matrix.arrays) {
      if (!is_in_order(array)) {
        inputs.push_back(array);
      }
    }
    return matrix;
  }

  // The place of a cache that steps write to.
  int write(const mx::array& cache) {
    // One whose numbers are there is not told to MLX: as an input it would have
    // more than one owner, and would be copied.
    if (cache.status() == mx::array::Status::unscheduled) {
      inputs.push_back(cache);
    }
    caches.push_back(cache);
    return int(caches.size()) - 1;
  }

  int add(int width, Step step) {
    steps.push_back(std::move(step));
    widths.push_back(width);
    return int(widths.size()) - 1;
  }

  void run(const mx::array& x, mx::array& out, Arrays& written) const {
    Rows given(x);
    Work work{rows, {}, {}};
    work.numbers.reserve(widths.size());
    size_t bytes = 0;
    for (int width : widths) {
      bytes += bytes_of(width, rows);
    }
    Scratch scratch(bytes);
    for (int width : widths) {
      work.numbers.push_back(scratch.take(bytes_of(width, rows)));
    }
    size_t length = size_t(widths[0]) * rows * sizeof(float);
    std::memcpy(work.numbers[0], given.data, length);
    work.numbers[result] = out.data<float>();
    for (auto& cache : written) {
      work.caches.push_back(cache.data<float>());
    }
    for (const auto& step : steps) {
      step(work);
    }
  }
};

class Chained : public mx::Primitive {
 public:
  Chained(mx::Stream stream, std::shared_ptr<Chain> chain)
      : Primitive(stream), chain_(std::move(chain)) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    auto& out = outputs[0];
    out.set_data(mx::allocator::malloc(out.nbytes()));
    // Caches that nobody else has are written in place.
    Arrays before, written;
    for (size_t i = 0; i < chain_->caches.size(); ++i) {
      auto& cache = chain_->caches[i];
      auto& after = outputs[i + 1];
      if (cache.is_donatable() && cache.flags().row_contiguous) {
        after.copy_shared_buffer(cache);
      } else {
        after.set_data(mx::allocator::malloc(after.nbytes()));
        before.push_back(cache);
        before.push_back(mx::array::unsafe_weak_copy(after));
      }
      written.push_back(mx::array::unsafe_weak_copy(after));
    }
    chain_->caches.clear();
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.dispatch([chain = chain_, before = std::move(before),
                      written = std::move(written),
                      x = mx::array::unsafe_weak_copy(inputs[0]),
                      out = mx::array::unsafe_weak_copy(out)]() mutable {
      for (size_t i = 0; i < before.size(); i += 2) {
        Rows numbers(before[i]);
        std::memcpy(
            before[i + 1].data<float>(), numbers.data, before[i + 1].nbytes());
      }
      chain->run(x, out, written);
    });
  }

  void eval_gpu(const Arrays&, Arrays&) override {
    throw std::runtime_error("this operation exists on the CPU only");
  }

  const char* name() const override {
    return "RoundhouseChain";
  }

 private:
  std::shared_ptr<Chain> chain_;
};

Chain& chain_of(void* chain) {
  return **static_cast<std::shared_ptr<Chain>*>(chain);
}

int add_product(Chain& chain, int x, Matrix matrix) {
  int rows = matrix.rows;
  return chain.add(
      rows,
      [x, to = chain.widths.size(),
       matrix = chain.read(std::move(matrix))](const Work& work) {
        product(
            weights_of(matrix), work.numbers[x], work.rows, work.numbers[to]);
      });
}

// What of a batch one sequence is: its rows, how many tokens it has had before them,
// and its caches.
struct Sequence {
  int64_t rows;
  int64_t before;
  int keys;
  int values;
};

struct Attending {
  int queries;
  int keys;
  int values;
  int64_t query_heads;
  int64_t key_heads;
  int64_t size;
  Scores scores;
  std::vector<Sequence> sequences;
};

// Writes rows [rows, heads, size] behind the first `before` of each head.
void keep(
    const float* rows, int64_t count, const Attending& a, int64_t before,
    int64_t step, float* cache) {
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t head = 0; head < a.key_heads; ++head) {
      const float* from = rows + (row * a.key_heads + head) * a.size;
      float* to = cache + head * step + (before + row) * a.size;
      std::copy(from, from + a.size, to);
    }
  }
}

void attend_each(
    const Attending& each, const std::vector<int64_t>& steps,
    const float* sinks, const Work& work, float* out) {
  int64_t row = 0;
  for (size_t i = 0; i < each.sequences.size(); ++i) {
    const auto& sequence = each.sequences[i];
    int64_t at = row * each.key_heads * each.size;
    float* keys = work.caches[sequence.keys];
    float* values = work.caches[sequence.values];
    keep(
        work.numbers[each.keys] + at, sequence.rows, each, sequence.before,
        steps[i], keys);
    keep(
        work.numbers[each.values] + at, sequence.rows, each, sequence.before,
        steps[i], values);
    int64_t first = row * each.query_heads * each.size;
    Attention a{};
    a.queries = work.numbers[each.queries] + first;
    a.keys = HeldRows{keys, steps[i]};
    a.values = HeldRows{values, steps[i]};
    a.rows = sequence.rows;
    a.tokens = sequence.before + sequence.rows;
    a.query_heads = each.query_heads;
    a.key_heads = each.key_heads;
    a.size = each.size;
    a.scale = each.scores.scale;
    a.window = each.scores.window;
    a.cap = each.scores.cap;
    a.sinks = sinks;
    attend(a, out + first);
    row += sequence.rows;
  }
}

void require_cache(
    const mx::array& cache, const Attending& a, int64_t tokens) {
  require(
      cache.ndim() == 3 && cache.dtype() == mx::float32 &&
          cache.shape(0) == a.key_heads && cache.shape(1) >= tokens &&
          cache.shape(2) == a.size,
      "a cache must be float32, [key heads, room, size]");
}

} // namespace
} // namespace roundhouse

using namespace roundhouse;

extern "C" {

void* roundhouse_chain_open(mlx_array x_handle) {
  void* chain = nullptr;
  guarded([&] {
    const auto& x = mlx_array_get_(x_handle);
    require(
        x.ndim() == 2 && x.dtype() == mx::float32,
        "x must be [rows, width] in float32");
    auto opened = std::make_shared<Chain>();
    opened->rows = x.shape(0);
    opened->inputs.push_back(x);
    opened->widths.push_back(x.shape(1));
    chain = new std::shared_ptr<Chain>(std::move(opened));
  });
  return chain;
}

void roundhouse_chain_close(void* chain) {
  delete static_cast<std::shared_ptr<Chain>*>(chain);
}

int roundhouse_chain_packed_product(
    void* handle, int* to, int x, mlx_array words, mlx_array scales,
    mlx_array biases, int group_size, int bits) {
  return guarded([&] {
    auto& chain = chain_of(handle);
    Matrix matrix = packed_matrix(
        mlx_array_get_(words), mlx_array_get_(scales), mlx_array_get_(biases),
        chain.width(x), group_size, bits);
    *to = add_product(chain, x, std::move(matrix));
  });
}

int roundhouse_chain_dense_product(
    void* handle, int* to, int x, mlx_array w) {
  return guarded([&] {
    auto& chain = chain_of(handle);
    Matrix matrix = dense_matrix(mlx_array_get_(w), chain.width(x));
    *to = add_product(chain, x, std::move(matrix));
  });
}

int roundhouse_chain_shift(
    void* handle, int* to, int x, mlx_array bias_handle) {
  return guarded([&] {
    auto& chain = chain_of(handle);
    int width = chain.width(x);
    const auto& bias = mlx_array_get_(bias_handle);
    require(
        bias.ndim() == 1 && bias.shape(0) == width &&
            bias.dtype() == mx::float32,
        "a bias must be float32, as long as rows are wide");
    *to = chain.add(
        width, [x, to = chain.widths.size(), width,
                bias = chain.read(bias)](const Work& work) {
          const float* more = bias.data<float>();
          for (int64_t row = 0; row < work.rows; ++row) {
            const float* from = work.numbers[x] + row * width;
            std::transform(
                from, from + width, more, work.numbers[to] + row * width,
                std::plus<float>());
          }
        });
  });
}

int roundhouse_chain_sum(void* handle, int* to, int left, int right) {
  return guarded([&] {
    auto& chain = chain_of(handle);
    int width = chain.width(left);
    require(chain.width(right) == width, "both must be of one width");
    *to = chain.add(
        width,
        [left, right, to = chain.widths.size(), width](const Work& work) {
          const float* from = work.numbers[left];
          std::transform(
              from, from + work.rows * width, work.numbers[right],
              work.numbers[to], std::plus<float>());
        });
  });
}

int roundhouse_chain_scaled(void* handle, int* to, int x, float factor) {
  return guarded([&] {
    auto& chain = chain_of(handle);
    int width = chain.width(x);
    *to = chain.add(
        width, [x, to = chain.widths.size(), width, factor](const Work& work) {
          const float* from = work.numbers[x];
          std::transform(
              from, from + work.rows * width, work.numbers[to],
              [factor](float number) { return number * factor; });
        });
  });
}

int roundhouse_chain_columns(
    void* handle, int* to, int x, int first, int last) {
  return guarded([&] {
    auto& chain = chain_of(handle);
    int width = chain.width(x);
    require(
        first >= 0 && first <= last && last <= width, "there are no such columns");
    *to = chain.add(
        last - first,
        [x, to = chain.widths.size(), width, first, last](const Work& work) {
          int64_t part = last - first;
          for (int64_t row = 0; row < work.rows; ++row) {
            const float* from = work.numbers[x] + row * width;
            std::copy(from + first, from + last, work.numbers[to] + row * part);
          }
        });
  });
}

int roundhouse_chain_rms_norm(
    void* handle, int* to, int x, mlx_array weight_handle, float epsilon) {
  return guarded([&] {
    auto& chain = chain_of(handle);
    int width = chain.width(x);
    const auto& weight = mlx_array_get_(weight_handle);
    require(
        weight.ndim() == 1 && weight.shape(0) > 0 &&
            width % weight.shape(0) == 0,
        "the weight must divide the width of rows");
    Format format = format_of(weight);
    *to = chain.add(
        width, [x, to = chain.widths.size(), width, format, epsilon,
                weight = chain.read(weight)](const Work& work) {
          int64_t size = weight.shape(0);
          norm_rows(
              weight.data<char>(), format, epsilon, size, work.numbers[x],
              work.rows * (width / size), work.numbers[to]);
        });
  });
}

int roundhouse_chain_swiglu(void* handle, int* to, int gate, int up) {
  return guarded([&] {
    auto& chain = chain_of(handle);
    int width = chain.width(gate);
    require(chain.width(up) == width, "gate and up must be of one width");
    *to = chain.add(
        width, [gate, up, to = chain.widths.size(), width](const Work& work) {
          gate_numbers(
              work.numbers[gate], work.numbers[up], work.rows * width,
              work.numbers[to]);
        });
  });
}

int roundhouse_chain_rotate(
    void* handle, int* to, int x, int heads, mlx_array cosines_handle,
    mlx_array sines_handle, int neighbours) {
  return guarded([&] {
    auto& chain = chain_of(handle);
    int width = chain.width(x);
    const auto& cosines = mlx_array_get_(cosines_handle);
    const auto& sines = mlx_array_get_(sines_handle);
    require_float32(cosines, 1, "cosines must be float32");
    require_float32(sines, 1, "sines must be float32");
    require(heads > 0 && width % heads == 0, "heads must divide rows");
    mx::Shape angles{chain.rows, 1, cosines.shape(-1)};
    require(
        cosines.shape() == angles && sines.shape() == angles &&
            2 * angles.back() <= width / heads,
        "cosines and sines must be [rows, 1, at most half of a head]");
    *to = chain.add(
        width, [x, to = chain.widths.size(), width, heads, neighbours,
                cosines = chain.read(cosines),
                sines = chain.read(sines)](const Work& work) {
          Angles angles{
              cosines.data<float>(), sines.data<float>(), cosines.shape(-1),
              neighbours != 0};
          turn_rows(
              angles, work.numbers[x], work.rows, heads, width / heads,
              work.numbers[to]);
        });
  });
}

int roundhouse_chain_attention(
    void* handle, int* to, int queries, int keys, int values, int size,
    float scale, int window, float cap, const mlx_array* sinks_handle,
    int sequences, const int* rows, const int* before,
    const mlx_array* caches) {
  return guarded([&] {
    auto& chain = chain_of(handle);
    int width = chain.width(queries);
    Attending a{queries, keys, values, 0, 0, size, {scale, window, cap}, {}};
    require(
        size > 0 && width % size == 0 && chain.width(keys) % size == 0,
        "heads must divide rows");
    a.query_heads = width / size;
    a.key_heads = chain.width(keys) / size;
    require(
        a.key_heads > 0 && a.query_heads % a.key_heads == 0 &&
            chain.width(values) == chain.width(keys),
        "query heads must divide by key heads, of which there are as many values");
    require(window >= 0, "a window cannot be negative");
    int64_t all = 0;
    for (int i = 0; i < sequences; ++i) {
      require(rows[i] >= 0 && before[i] >= 0, "a sequence of fewer than no rows");
      all += rows[i];
      for (int j = 0; j < 2; ++j) {
        require_cache(
            mlx_array_get_(caches[2 * i + j]), a, int64_t(before[i]) + rows[i]);
      }
    }
    require(all == chain.rows, "sequences must have the rows of the chain");
    std::vector<mx::array> sinks;
    if (sinks_handle != nullptr) {
      const auto& given = mlx_array_get_(*sinks_handle);
      require(
          given.ndim() == 1 && given.shape(0) == a.query_heads &&
              given.dtype() == mx::float32,
          "sinks must be float32, one for each query head");
      sinks.push_back(chain.read(given));
    }
    std::vector<int64_t> steps;
    for (int i = 0; i < sequences; ++i) {
      const auto& held = mlx_array_get_(caches[2 * i]);
      const auto& values = mlx_array_get_(caches[2 * i + 1]);
      require(held.shape() == values.shape(), "caches must have one shape");
      steps.push_back(int64_t(held.shape(1)) * size);
      a.sequences.push_back(Sequence{
          rows[i], before[i], chain.write(held), chain.write(values)});
    }
    *to = chain.add(
        width, [a = std::move(a), steps = std::move(steps),
                sinks = std::move(sinks),
                to = chain.widths.size()](const Work& work) {
          const float* scores =
              sinks.empty() ? nullptr : sinks[0].data<float>();
          attend_each(a, steps, scores, work, work.numbers[to]);
        });
  });
}

int roundhouse_chain_finish(
    void* handle, int numbers, mlx_array* result, mlx_array* caches) {
  return guarded([&] {
    auto& owner = *static_cast<std::shared_ptr<Chain>*>(handle);
    require(numbers > 0, "what comes out is what goes in");
    std::vector<mx::Shape> shapes{{owner->rows, owner->width(numbers)}};
    for (const auto& cache : owner->caches) {
      shapes.push_back(cache.shape());
    }
    owner->result = numbers;
    std::vector<mx::Dtype> formats(shapes.size(), mx::float32);
    Arrays inputs = std::move(owner->inputs);
    auto arrays = mx::array::make_arrays(
        std::move(shapes), formats,
        std::make_shared<Chained>(cpu_stream(), std::move(owner)), inputs);
    mlx_array_set_(*result, arrays[0]);
    for (size_t i = 1; i < arrays.size(); ++i) {
      mlx_array_set_(caches[i - 1], arrays[i]);
    }
  });
}
}
