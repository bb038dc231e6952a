// How many threads a process takes: made-up /proc and /sys of machines and containers that this one is not, and a
// kernel that answers for the affinity mask as one with 2,000 processors does.

#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "check.h"
#include "threads.h"

namespace fs = std::filesystem;

namespace {

int allowed = 64;       // processors 0 to allowed - 1
size_t mask_bytes = 8;  // of the kernel's own mask

}  // namespace

/// Stands in for the C library's.
extern "C" int sched_getaffinity(pid_t, size_t size, cpu_set_t* mask) noexcept {
  if (size < mask_bytes) {
    errno = EINVAL;
    return -1;
  }
  CPU_ZERO_S(size, mask);
  for (int cpu = 0; cpu < allowed; ++cpu) CPU_SET_S(cpu, size, mask);
  return 0;
}

namespace {

/// A root folder with files of its own.
class Root {
 public:
  Root() {
    std::string pattern = fs::temp_directory_path() / "threadsXXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~Root() { fs::remove_all(path_); }

  Root& file(const std::string& path, const std::string& text) {
    fs::create_directories((path_ / path).parent_path());
    std::ofstream(path_ / path) << text;
    return *this;
  }

  int cores() const { return usable_cores(path_); }

 private:
  fs::path path_;
};

const std::string kV2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
const std::string kV1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
                        "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n";

void the_mask_alone_where_nothing_else_is_told() {
  CHECK_EQUAL(Root().cores(), 64);
  Root pairs;
  for (int cpu = 0; cpu < 64; ++cpu) {
    const std::string first = std::to_string(cpu % 32), second = std::to_string(cpu % 32 + 32);
    const std::string folder = "sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    pairs.file(folder + "thread_siblings_list", first + "," + second + "\n");
  }
  CHECK_EQUAL(pairs.cores(), 32);
}

void a_mask_beyond_1024_processors_is_read() {
  allowed = 1500, mask_bytes = 256;
  CHECK_EQUAL(Root().cores(), 1500);
  allowed = 64, mask_bytes = 8;
}

void v2_in_a_namespace_of_its_own() {
  Root root;
  root.file("proc/self/mountinfo", kV2).file("proc/self/cgroup", "0::/\n");
  CHECK_EQUAL(root.file("sys/fs/cgroup/cpu.max", "max 100000\n").cores(), 64);
  CHECK_EQUAL(root.file("sys/fs/cgroup/cpu.max", "200000 100000\n").cores(), 2);
  CHECK_EQUAL(root.file("sys/fs/cgroup/cpu.max", "260000 100000\n").cores(), 3);
  CHECK_EQUAL(root.file("sys/fs/cgroup/cpu.max", "20000 100000\n").cores(), 1);
  CHECK_EQUAL(root.file("sys/fs/cgroup/cpu.max", "nonsense\n").cores(), 64);
}

/// systemd's CPUQuota=: the limit is that of a service or of a slice above it, with no namespace between.
void v2_below_the_root() {
  Root root;
  root.file("proc/self/mountinfo", "23 1 8:1 / / rw - ext4 /dev/sda rw\n" + kV2);
  root.file("proc/self/cgroup", "0::/user.slice/user-1000.slice/score.service\n");
  const std::string slice = "sys/fs/cgroup/user.slice/user-1000.slice";
  CHECK_EQUAL(root.file(slice + "/score.service/cpu.max", "400000 100000\n").cores(), 4);
  CHECK_EQUAL(root.file(slice + "/cpu.max", "300000 100000\n").cores(), 3);
  CHECK_EQUAL(root.file(slice + "/cpu.max", "max 100000\n").cores(), 4);
  CHECK_EQUAL(root.file("sys/fs/cgroup/user.slice/cpu.max", "100000 50000\n").cores(), 2);
  CHECK_EQUAL(root.file("sys/fs/cgroup/other.slice/cpu.max", "100000 100000\n").cores(), 2);
}

void v1_below_the_root() {
  Root root;
  root.file("proc/self/mountinfo", kV1);
  root.file("proc/self/cgroup", "9:cpuset:/small\n4:cpu,cpuacct:/kubepods/pod1\n1:name=systemd:/x\n");
  const std::string groups = "sys/fs/cgroup/cpu,cpuacct/";
  root.file(groups + "cpu.cfs_quota_us", "-1\n").file(groups + "cpu.cfs_period_us", "100000\n");
  CHECK_EQUAL(root.cores(), 64);
  root.file(groups + "kubepods/cpu.cfs_quota_us", "800000\n").file(groups + "kubepods/cpu.cfs_period_us", "100000\n");
  CHECK_EQUAL(root.cores(), 8);
  root.file(groups + "kubepods/pod1/cpu.cfs_quota_us", "100000\n");
  CHECK_EQUAL(root.file(groups + "kubepods/pod1/cpu.cfs_period_us", "50000\n").cores(), 2);
}

/// docker without a namespace for groups: the mount shows the container's group alone.
void v1_mounted_from_the_groups_own_folder() {
  Root root;
  root.file("proc/self/mountinfo", "40 31 0:29 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n");
  root.file("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000\n").file("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  CHECK_EQUAL(root.file("proc/self/cgroup", "3:cpu:/docker/abc\n").cores(), 3);
  CHECK_EQUAL(root.file("proc/self/cgroup", "3:cpu:/docker/abcd\n").cores(), 3);
  root.file("sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us", "100000\n");
  root.file("sys/fs/cgroup/cpu/inner/cpu.cfs_period_us", "100000\n");
  CHECK_EQUAL(root.file("proc/self/cgroup", "3:cpu:/docker/abc/inner\n").cores(), 1);
}

/// This very kind of host: v1 for the processors' time, v2 beside it without that controller.
void the_least_of_v1_and_v2_counts() {
  Root root;
  root.file("proc/self/mountinfo", kV1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  root.file("proc/self/cgroup", "2:cpu,cpuacct:/a\n0::/a\n");
  root.file("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "500000\n");
  CHECK_EQUAL(root.file("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n").cores(), 5);
  CHECK_EQUAL(root.file("sys/fs/cgroup/unified/a/cpu.max", "200000 100000\n").cores(), 2);
}

void broken_files_are_no_limit() {
  Root root;
  root.file("proc/self/mountinfo", "\n- - -\n1 2 3 / /sys - cgroup2\n").file("proc/self/cgroup", ":\n\n0::\n0::x\nx");
  CHECK_EQUAL(root.cores(), 64);
}

}  // namespace

int main() {
  the_mask_alone_where_nothing_else_is_told();
  a_mask_beyond_1024_processors_is_read();
  v2_in_a_namespace_of_its_own();
  v2_below_the_root();
  v1_below_the_root();
  v1_mounted_from_the_groups_own_folder();
  the_least_of_v1_and_v2_counts();
  broken_files_are_no_limit();
}
