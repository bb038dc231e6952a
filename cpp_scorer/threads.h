#pragma once

#include <string>

/// Physical cores that this process may use: within its affinity mask, and the share of time that its control group and
/// every group above that one grant (cgroup v1 and v2), rounded; at least 1.
/// `root` stands before /proc and /sys, for tests.
int usable_cores(const std::string& root = "");
