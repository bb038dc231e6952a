#include "output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "errors.h"

namespace fs = std::filesystem;

OutputFile::OutputFile(const std::string& path) : path_(path), output_(open()) {}

OutputFile::~OutputFile() {
  if (kind_ == Kind::kTemporary) unlink(temporary_path_.c_str());
}

int OutputFile::open() {
  if (path_ == "-") return STDOUT_FILENO;
  std::error_code ignored;
  if (fs::exists(path_, ignored)) path_ = fs::canonical(path_, ignored);
  int fd = -1;
  if (fs::exists(path_, ignored) && !fs::is_regular_file(path_, ignored)) {
    fd = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  } else {
    const fs::path folder = fs::path(path_).parent_path();
    temporary_path_ = path_ + "." + std::to_string(getpid()) + ".tmp";
    kind_ = Kind::kAnonymous;
    fd = ::open(folder.empty() ? "." : folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
      kind_ = Kind::kTemporary;
      fd = ::open(temporary_path_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
    }
  }
  if (fd < 0) fail("cannot be opened");
  return fd;
}

void OutputFile::write(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(output_.get(), text.data(), text.size());
    if (written < 0 && errno != EINTR) fail("cannot be written");
    if (written > 0) text.remove_prefix(static_cast<size_t>(written));
  }
}

void OutputFile::commit() {
  if (kind_ == Kind::kDirect) return;
  if (fsync(output_.get()) != 0) fail("cannot be written");
  if (kind_ == Kind::kAnonymous) {
    // Linking cannot replace a file, renaming can.
    const std::string handle = "/proc/self/fd/" + std::to_string(output_.get());
    if (linkat(AT_FDCWD, handle.c_str(), AT_FDCWD, temporary_path_.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      fail("cannot be given its name");
    }
    kind_ = Kind::kTemporary;
  }
  if (std::rename(temporary_path_.c_str(), path_.c_str()) != 0) fail("cannot be given its name");
  kind_ = Kind::kDirect;
}

void OutputFile::fail(const char* what) const {
  throw FatalError((path_ == "-" ? "stdout" : path_) + ": " + what + " (" + std::strerror(errno) + ")");
}
