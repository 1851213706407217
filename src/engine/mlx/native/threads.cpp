#include "threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace roundhouse {
namespace {

// How often a waiting thread looks before it sleeps. The products of one token
// follow each other within some ten microseconds; waking a sleeper costs as much.
constexpr int kLooks = 4000;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  explicit Pool(int helpers) {
    for (int i = 0; i < helpers; ++i) {
      threads_.emplace_back([this, i] { serve(i + 1); });
    }
  }

  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (auto& thread : threads_) {
      thread.join();
    }
  }

  int size() const {
    return int(threads_.size()) + 1;
  }

  void run(const std::function<void(int)>& part) {
    part_ = &part;
    unfinished_.store(int(threads_.size()), std::memory_order_relaxed);
    {
      std::lock_guard lock(mutex_);
      round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    part(0);
    while (unfinished_.load(std::memory_order_acquire) > 0) {
      relax();
    }
  }

 private:
  void serve(int index) {
    uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < kLooks && round_.load(std::memory_order_acquire) == seen; ++i) {
        relax();
      }
      if (round_.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != seen; });
      }
      seen = round_.load(std::memory_order_acquire);
      if (stopping_) {
        return;
      }
      (*part_)(index);
      unfinished_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> round_{0};
  std::atomic<int> unfinished_{0};
  const std::function<void(int)>* part_ = nullptr;
  bool stopping_ = false;
};

// One job at a time. A job that finds the pool taken runs alone.
std::mutex taken;
// Never destroyed at exit: its threads may outlive static destructors.
Pool* pool = nullptr;

// A part of a job on another thread must not open a job of its own.
thread_local bool inside = false;

} // namespace

void set_threads(int count) {
  std::lock_guard lock(taken);
  count = std::max(count, 1);
  if (pool != nullptr && pool->size() == count) {
    return;
  }
  delete pool;
  pool = count > 1 ? new Pool(count - 1) : nullptr;
}

int threads() {
  std::lock_guard lock(taken);
  return pool == nullptr ? 1 : pool->size();
}

void in_parallel(
    int64_t count, int64_t step,
    const std::function<void(int64_t first, int64_t last)>& work) {
  std::unique_lock lock(taken, std::defer_lock);
  int64_t steps = (count + step - 1) / step;
  if (inside || steps < 2 || !lock.try_lock() || pool == nullptr) {
    work(0, count);
    return;
  }
  int64_t parts = std::min<int64_t>(pool->size(), steps);
  pool->run([&](int part) {
    if (part < parts) {
      inside = true;
      int64_t first = steps * part / parts * step;
      int64_t last = std::min(steps * (part + 1) / parts * step, count);
      work(first, last);
      inside = false;
    }
  });
}

} // namespace roundhouse
