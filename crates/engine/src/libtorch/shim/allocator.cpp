// Caching allocator for CPU tensors. glibc returns large blocks to the kernel on every free, so each training step
// would pay for mapping and zeroing the same pages again.
#include "api.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/core/alignment.h>
#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace {

constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kSmallest = size_t(1) << 20;  // smaller blocks use malloc

class CachingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* block = bytes == 0 ? nullptr : taken(bytes);
    return {block, block, &CachingAllocator::given_back, at::Device(at::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &CachingAllocator::given_back; }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  void figures(unsigned long long* in_use, unsigned long long* peak, unsigned long long* held) {
    std::lock_guard<std::mutex> lock(mutex_);
    *in_use = in_use_;
    *peak = peak_;
    *held = in_use_ + free_bytes_;
  }

  void limit(size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    limit_ = bytes;
  }

  void spare(size_t share) {
    std::lock_guard<std::mutex> lock(mutex_);
    spare_ = share;
  }

  void release_free() {
    std::lock_guard<std::mutex> lock(mutex_);
    while (!free_.empty()) drop(free_.begin());
  }

  void reset_peak() {
    std::lock_guard<std::mutex> lock(mutex_);
    peak_ = in_use_;
  }

 private:
  // Blocks by size. A block in use keeps its map node, so that freeing allocates nothing: a deleter, which tensors'
  // destructors call, must not throw.
  using Free = std::multimap<size_t, void*>;

  void* taken(size_t bytes) {
    if (bytes < kSmallest) return c10::alloc_cpu(bytes);
    const size_t wanted = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    std::lock_guard<std::mutex> lock(mutex_);
    Free::node_type node;
    // Reuse a block that is at most a quarter too large.
    const auto found = free_.lower_bound(wanted);
    const bool fits = found != free_.end() && found->first <= wanted + wanted / 4;
    const size_t taking = fits ? found->first : wanted;
    TORCH_CHECK(limit_ == 0 || in_use_ + taking <= limit_, "out of memory: ", in_use_, " + ", taking,
                " bytes exceed the limit of ", limit_);
    if (fits) {
      node = free_.extract(found);
      free_bytes_ -= node.key();
    } else {
      // Held memory may exceed the peak use by a fraction, no more.
      const size_t most = std::max(peak_, in_use_ + wanted);
      while (!free_.empty() && in_use_ + wanted + free_bytes_ > most + most / spare_) drop(std::prev(free_.end()));
      Free made;
      made.emplace(wanted, nullptr);
      node = made.extract(made.begin());
      node.mapped() = mapped(wanted);
      if (!node.mapped()) {
        while (!free_.empty()) drop(free_.begin());
        node.mapped() = mapped(wanted);
      }
      TORCH_CHECK(node.mapped(), "out of memory: no ", bytes, " bytes left on the CPU");
    }
    void* const block = node.mapped();
    const size_t size = node.key();
    try {
      used_.emplace(block, std::move(node));
    } catch (...) {  // no memory for the entry
      munmap(block, size);
      throw;
    }
    in_use_ += size;
    peak_ = std::max(peak_, in_use_);
    return block;
  }

  static void* mapped(size_t size) {
    void* block = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) return nullptr;
    madvise(block, size, MADV_HUGEPAGE);  // only a hint
    return block;
  }

  void drop(Free::iterator entry) {
    munmap(entry->second, entry->first);
    free_bytes_ -= entry->first;
    free_.erase(entry);
  }

  static void given_back(void* block) noexcept;

  std::mutex mutex_;
  Free free_;
  std::unordered_map<void*, Free::node_type> used_;
  size_t in_use_ = 0, peak_ = 0, free_bytes_ = 0, limit_ = 0, spare_ = 4;
};

// Never destroyed: tensors may be freed during program exit.
CachingAllocator& allocator() {
  static CachingAllocator* one = new CachingAllocator;
  return *one;
}

void CachingAllocator::given_back(void* block) noexcept {
  if (!block) return;
  CachingAllocator& self = allocator();
  {
    std::lock_guard<std::mutex> lock(self.mutex_);
    const auto found = self.used_.find(block);
    if (found != self.used_.end()) {
      const size_t size = found->second.key();
      self.free_.insert(std::move(found->second));
      self.free_bytes_ += size;
      self.in_use_ -= size;
      self.used_.erase(found);
      return;
    }
  }
  c10::free_cpu(block);
}

}  // namespace

extern "C" void ctseg_use_caching_allocator(void) { c10::SetCPUAllocator(&allocator(), 1); }

extern "C" void ctseg_limit_memory(unsigned long long bytes) { allocator().limit(bytes); }

extern "C" void ctseg_spare_memory(unsigned long long share) { allocator().spare(share); }

extern "C" void ctseg_allocator_figures(unsigned long long* in_use, unsigned long long* peak,
                                        unsigned long long* held) {
  allocator().figures(in_use, peak, held);
}

extern "C" void ctseg_release_free(void) { allocator().release_free(); }

extern "C" void ctseg_reset_peak(void) { allocator().reset_peak(); }
