// Arrays over a file in memory, without copying it.
//
// MLX's CPU allocator keeps the size of a buffer in the word before it. The
// mapping therefore begins with one page of our own, whose last word is that
// size; the file follows. All arrays share the one buffer and differ in offset,
// and the last of them unmaps the file.
//
// Pages are private copies when written: MLX may compute in place in a buffer
// that nobody else needs, and the file stays as it is.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "error.h"
#include "kernels.h"
#include "mlx/c/private/array.h"
#include "mlx/c/private/enums.h"
#include "mlx/mlx.h"

namespace mx = mlx::core;

namespace roundhouse {
namespace {

struct Mapping {
  mx::array bytes;
  size_t length;
};

[[noreturn]] void fail_with_errno(const char* what) {
  throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

struct Descriptor {
  int number;
  ~Descriptor() {
    close(number);
  }
};

std::unique_ptr<Mapping> open_mapping(const char* path) {
  Descriptor file{open(path, O_RDONLY | O_CLOEXEC)};
  if (file.number < 0) {
    fail_with_errno("cannot open");
  }
  struct stat status;
  if (fstat(file.number, &status) != 0) {
    fail_with_errno("cannot stat");
  }
  size_t length = size_t(status.st_size);
  if (length == 0) {
    throw std::runtime_error("the file is empty");
  }
  size_t page = size_t(sysconf(_SC_PAGESIZE));
  constexpr int access = PROT_READ | PROT_WRITE;
  constexpr int flags = MAP_PRIVATE | MAP_NORESERVE;
  void* region =
      mmap(nullptr, page + length, access, flags | MAP_ANONYMOUS, -1, 0);
  if (region == MAP_FAILED) {
    fail_with_errno("cannot reserve addresses");
  }
  char* content = static_cast<char*>(region) + page;
  if (mmap(content, length, access, flags | MAP_FIXED, file.number, 0) ==
      MAP_FAILED) {
    munmap(region, page + length);
    fail_with_errno("cannot map");
  }
  madvise(content, length, MADV_WILLNEED);
  char* buffer = content - sizeof(size_t);
  std::memcpy(buffer, &length, sizeof(length));
  mx::array bytes(
      mx::allocator::Buffer(buffer), mx::Shape{0}, mx::uint8,
      [region, size = page + length](mx::allocator::Buffer) {
        munmap(region, size);
      });
  return std::make_unique<Mapping>(Mapping{std::move(bytes), length});
}

mx::array part(
    const Mapping& mapping, size_t offset, mx::Shape shape, mx::Dtype dtype) {
  mx::array result(std::move(shape), dtype, nullptr, {});
  size_t item = mx::size_of(dtype);
  if (offset > mapping.length || result.nbytes() > mapping.length - offset) {
    throw std::runtime_error("the tensor reaches beyond the end of the file");
  }
  if (offset % item != 0) {
    // MLX counts offsets in items. Such a tensor is copied.
    auto buffer = mx::allocator::malloc(result.nbytes());
    std::memcpy(
        buffer.raw_ptr(), mapping.bytes.data<char>() + offset, result.nbytes());
    result.set_data(buffer);
  } else {
    size_t long_dimensions = 0;
    for (auto length : result.shape()) {
      long_dimensions += length > 1;
    }
    mx::array::Flags flags{true, true, long_dimensions <= 1};
    result.copy_shared_buffer(
        mapping.bytes, result.strides(), flags, result.size(),
        int64_t(offset / item));
  }
  result.set_status(mx::array::Status::available);
  return result;
}

} // namespace
} // namespace roundhouse

using namespace roundhouse;

extern "C" {

void* roundhouse_map_open(const char* path) {
  void* map = nullptr;
  guarded([&] { map = open_mapping(path).release(); });
  return map;
}

size_t roundhouse_map_length(const void* map) {
  return static_cast<const Mapping*>(map)->length;
}

int roundhouse_map_array(
    mlx_array* result, const void* map, size_t offset, const int* shape,
    size_t dimensions, mlx_dtype dtype) {
  return guarded([&] {
    const auto& mapping = *static_cast<const Mapping*>(map);
    mlx_array_set_(
        *result,
        part(
            mapping, offset, mx::Shape(shape, shape + dimensions),
            mlx_dtype_to_cpp(dtype)));
  });
}

void roundhouse_map_close(void* map) {
  delete static_cast<Mapping*>(map);
}
}
