#include "output_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iomanip>
#include <random>
#include <sstream>

#include "errors.h"
#include "signals.h"

namespace fs = std::filesystem;

namespace {

constexpr int kMostLinks = 40;  // as the kernel
constexpr size_t kCopySize = 64 * 1024;

/// Where `path` leads: to a descriptor of this process, or else to `file`, which need not exist.
struct Target {
  int descriptor = -1;
  fs::path file;
};

Target follow(fs::path path) {
  std::error_code error;
  const fs::path descriptors = fs::canonical("/proc/self/fd", error);
  for (int links = 0; links < kMostLinks; ++links) {
    const fs::path folder = fs::canonical(path.has_parent_path() ? path.parent_path() : ".", error);
    if (error) break;
    path = folder / path.filename();
    // A descriptor opened anew would begin at the file's start, and could not be a pipe that has lost its name.
    const std::string name = path.filename();
    const bool is_number = name.find_first_not_of("0123456789") == name.npos;
    if (folder == descriptors && is_number) return {std::atoi(name.c_str()), path};
    if (!fs::is_symlink(path, error)) break;
    path = folder / fs::read_symlink(path, error);
  }
  return {-1, path};
}

/// What exists, opened to be written to.
FileDescriptor open_existing(const Target& target) {
  if (target.descriptor < 0) return FileDescriptor(open(target.file.c_str(), O_WRONLY | O_CLOEXEC));
  FileDescriptor copy(fcntl(target.descriptor, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  if ((fcntl(copy.get(), F_GETFL) & O_ACCMODE) != O_RDONLY) return copy;
  errno = EBADF;
  return FileDescriptor();
}

std::string partial_name(const std::string& path) {
  std::random_device random;
  std::ostringstream name;
  name << path << "." << std::hex << std::setfill('0') << std::setw(8) << random() << ".partial";
  return name.str();
}

}  // namespace

OutputFile::OutputFile(const std::string& path) : name_(path == "-" ? "stdout" : path) {
  const Target target = path == "-" ? Target{STDOUT_FILENO, {}} : follow(path);
  std::error_code ignored;
  if (target.descriptor >= 0 || fs::exists(target.file, ignored)) {
    output_ = open_existing(target);
    if (!output_.is_open()) fail("cannot be opened");
    if (target.descriptor >= 0 || !fs::is_regular_file(target.file, ignored)) return;
  }
  if (fs::is_symlink(target.file, ignored)) {
    errno = ELOOP;
    fail("cannot be opened");
  }
  target_ = target.file;
  // Seen now, not after hours of work; the file itself shall appear with its first line.
  output_ = create_partial();
  drop_partial();
}

FileDescriptor OutputFile::create_partial() {
  constexpr int kNew = O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC;
  partial_path_ = partial_name(target_);
  FileDescriptor file(open(partial_path_.c_str(), kNew, 0666));
  std::error_code error;
  if (!file.is_open() && fs::is_regular_file(target_, error)) {
    // A file that may be written to, in a folder that may not.
    const int reason = errno;
    partial_path_ = partial_name(fs::temp_directory_path(error) / fs::path(target_).filename());
    file = FileDescriptor(open(partial_path_.c_str(), kNew, 0666));
    errno = reason;
  }
  if (!file.is_open()) fail("cannot be opened");
  return file;
}

void OutputFile::write(std::string_view lines) {
  Uninterrupted whole;
  if (!output_.is_open()) {
    output_ = create_partial();
    whole.set_last_words(kept());
  }
  try {
    write_all(output_, lines);
  } catch (const FatalError&) {
    // A disk that is full took a part of them.
    if (!target_.empty() && ftruncate(output_.get(), size_) != 0) fail("cannot be written");
    if (!target_.empty() && size_ == 0) drop_partial();
    throw;
  }
  size_ += static_cast<off_t>(lines.size());
}

void OutputFile::write_all(const FileDescriptor& file, std::string_view text) const {
  while (!text.empty()) {
    const ssize_t written = ::write(file.get(), text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EAGAIN) {
      // Whoever started this program made the pipe one that does not wait.
      pollfd room{file.get(), POLLOUT, 0};
      poll(&room, 1, -1);
    } else if (errno != EINTR) {
      fail("cannot be written");
    }
  }
}

void OutputFile::commit() {
  if (target_.empty()) return;
  Uninterrupted whole;
  if (!output_.is_open()) output_ = create_partial();  // no lines: an empty file, in the place of an older one
  if (fsync(output_.get()) != 0) fail("cannot be written");
  struct stat existing;
  if (std::rename(partial_path_.c_str(), target_.c_str()) == 0) {
    // The name is safe only with its folder.
    const FileDescriptor folder(open(fs::path(target_).parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder.is_open()) fsync(folder.get());
  } else if (const int reason = errno; stat(target_.c_str(), &existing) == 0 && S_ISREG(existing.st_mode)) {
    copy_into_place();
    drop_partial();
  } else {
    errno = reason;
    fail("cannot be given its name");
  }
  output_ = FileDescriptor();
  whole.set_last_words("");
}

void OutputFile::drop_partial() {
  unlink(partial_path_.c_str());
  output_ = FileDescriptor();
}

void OutputFile::copy_into_place() const {
  const FileDescriptor from(open(partial_path_.c_str(), O_RDONLY | O_CLOEXEC));
  const FileDescriptor to(open(target_.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
  if (!from.is_open() || !to.is_open()) fail("cannot be opened");
  std::array<char, kCopySize> part;
  for (ssize_t got; (got = read(from.get(), part.data(), part.size())) != 0;) {
    if (got > 0) write_all(to, {part.data(), static_cast<size_t>(got)});
    else if (errno != EINTR) fail("cannot be written");
  }
  if (fsync(to.get()) != 0) fail("cannot be written");
}

std::string OutputFile::kept() const {
  return target_.empty() || !output_.is_open() ? "" : "; what was answered is in '" + partial_path_ + "'";
}

void OutputFile::fail(const char* what) const {
  throw FatalError(name_ + ": " + what + " (" + std::strerror(errno) + ")");
}
