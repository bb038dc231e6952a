#include "threads.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>
#include <vector>

namespace {

constexpr int kMostProcessors = 1 << 16;  // more than any kernel has

/// The numbers of the processors in the affinity mask; empty where the kernel does not say.
std::vector<int> allowed_processors() {
  // The kernel refuses a mask that is smaller than its own.
  for (int size = CPU_SETSIZE; size <= kMostProcessors; size *= 2) {
    std::vector<cpu_set_t> mask(static_cast<size_t>(size / CPU_SETSIZE));
    const size_t bytes = mask.size() * sizeof(cpu_set_t);
    if (sched_getaffinity(0, bytes, mask.data()) == 0) {
      std::vector<int> processors;
      for (int cpu = 0; cpu < size; ++cpu) {
        if (CPU_ISSET_S(cpu, bytes, mask.data())) processors.push_back(cpu);
      }
      return processors;
    }
    if (errno != EINVAL) break;
  }
  return {};
}

/// The processors that share a core with `cpu`, as the kernel writes them; the number itself where it does not say.
std::string core_of(const std::string& root, int cpu) {
  std::ifstream file(root + "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
  std::string siblings;
  std::getline(file, siblings);
  return siblings.empty() ? std::to_string(cpu) : siblings;
}

/// Processors' worth of time that one group grants; infinite where it has no limit, or has no such file.
double granted_in(const std::string& folder, bool v2) {
  double quota = 0, period = 0;
  if (v2) {
    std::ifstream(folder + "/cpu.max") >> quota >> period;  // "max 100000" where there is no limit
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;  // -1 where there is no limit
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? quota / period : std::numeric_limits<double>::infinity();
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

/// Whether the comma-separated `text` holds `word`.
bool holds(const std::string& text, const std::string& word) {
  const std::vector<std::string> words = split(text, ',');
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// A mounted hierarchy of control groups: the group that its mount point shows, and where that is.
struct Mount {
  std::string group, point;
};

/// Where the hierarchy of v2, or that of v1 with the processors' time, is mounted (proc(5), mountinfo).
std::vector<Mount> mounts(const std::string& root, bool v2) {
  std::vector<Mount> found;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> fields = split(line, ' ');
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (dash - fields.begin() < 5 || fields.end() - dash < 4) continue;
    const bool wanted = v2 ? dash[1] == "cgroup2" : dash[1] == "cgroup" && holds(dash[3], "cpu");
    if (wanted) found.push_back({fields[3], fields[4]});
  }
  return found;
}

/// The least that the process's group and those above it grant, as far up as the mount shows.
double granted_by(const std::string& root, const std::string& group, bool v2) {
  double least = std::numeric_limits<double>::infinity();
  for (const Mount& mount : mounts(root, v2)) {
    // In a container the mount may show a group below the hierarchy's root, and the process's may lie outside it.
    const std::string top = mount.group == "/" ? "" : mount.group;
    std::string below = group.compare(0, top.size(), top) == 0 ? group.substr(top.size()) : "";
    if (below.rfind('/', 0) != 0) below.clear();
    while (below.size() > 1) {
      least = std::min(least, granted_in(root + mount.point + below, v2));
      below.resize(below.rfind('/'));
    }
    least = std::min(least, granted_in(root + mount.point, v2));
  }
  return least;
}

/// Processors' worth of time that the control groups grant; infinite where there is no limit.
double granted_processors(const std::string& root) {
  double least = std::numeric_limits<double>::infinity();
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // number:controllers:group; v2 is 0::group
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controllers.empty() || holds(controllers, "cpu")) {
      least = std::min(least, granted_by(root, line.substr(second + 1), controllers.empty()));
    }
  }
  return least;
}

}  // namespace

int usable_cores(const std::string& root) {
  std::set<std::string> cores;
  for (const int cpu : allowed_processors()) cores.insert(core_of(root, cpu));
  const double usable = std::min(static_cast<double>(cores.size()), granted_processors(root));
  return std::max(1, static_cast<int>(std::lround(usable)));
}
