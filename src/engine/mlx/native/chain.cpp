#include "chain.h"

#include <cstring>
#include <memory>
#include <stdexcept>

#include "error.h"
#include "kernels.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/private/array.h"
#include "mlx/primitives.h"

namespace mx = mlx::core;

namespace roundhouse {
namespace {

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

} // namespace

void Chain::run(const mx::array& x, mx::array& out, Arrays& written) const {
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

Chain& chain_of(void* handle) {
  return **static_cast<std::shared_ptr<Chain>*>(handle);
}

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
