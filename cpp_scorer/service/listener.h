#pragma once

#include <string>

#include "file_descriptor.h"

/// A socket that listens at HOST:PORT, or [HOST]:PORT for IPv6; port 0 is any that is free.
struct Listener {
  FileDescriptor socket;
  std::string address;  // with the port that was taken

  /// Throws FatalError where the address cannot be listened at.
  explicit Listener(const std::string& host_and_port);
};
