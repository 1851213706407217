#include "threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace roundhouse {
namespace {

// How often a waiting thread looks before it sleeps, some ten microseconds in
// all. The products of one token follow each other that fast; waking a sleeper
// takes as long.
constexpr int kLooks = 500;

// Pieces of a job for each thread. Threads take pieces as they come: one that the
// system does not let run delays nothing but the piece it has.
constexpr int kPieces = 4;

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
      threads_.emplace_back([this] { serve(); });
    }
  }

  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      ++round_;
    }
    wake_.notify_all();
    for (auto& thread : threads_) {
      thread.join();
    }
  }

  int size() const {
    return int(threads_.size()) + 1;
  }

  void run(int64_t pieces, const std::function<void(int64_t)>& piece) {
    piece_ = &piece;
    pieces_ = pieces;
    next_ = 0;
    open_ = true;
    {
      std::lock_guard lock(mutex_);
      ++round_;
    }
    wake_.notify_all();
    take_pieces();
    // From here on nobody begins: who counted itself before this is waited for,
    // who does so afterwards sees that the job is closed.
    open_ = false;
    while (working_ > 0) {
      relax();
    }
  }

 private:
  void take_pieces() {
    for (int64_t i = next_++; i < pieces_; i = next_++) {
      (*piece_)(i);
    }
  }

  void serve() {
    uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < kLooks && round_ == seen; ++i) {
        relax();
      }
      if (round_ == seen) {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return round_ != seen; });
      }
      seen = round_;
      if (stopping_) {
        return;
      }
      ++working_;
      if (open_) {
        take_pieces();
      }
      --working_;
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  // All in the order of one sequence, the default: `run` depends on it.
  std::atomic<uint64_t> round_{0};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> open_{false};
  std::atomic<int> working_{0};
  std::atomic<int64_t> next_{0};
  int64_t pieces_ = 0;
  const std::function<void(int64_t)>* piece_ = nullptr;
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
  int64_t parts = std::min<int64_t>(int64_t(pool->size()) * kPieces, steps);
  pool->run(parts, [&](int64_t part) {
    inside = true;
    int64_t first = steps * part / parts * step;
    int64_t last = std::min(steps * (part + 1) / parts * step, count);
    work(first, last);
    inside = false;
  });
}

} // namespace roundhouse
