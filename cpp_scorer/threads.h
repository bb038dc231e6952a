#pragma once

/// Physical cores that this process may use: within its affinity mask and its control group's share of time.
int usable_cores();
