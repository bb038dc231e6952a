#include "line_reader.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "errors.h"

namespace {

constexpr size_t kReadSize = 64 * 1024;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";  // some editors begin a file with it

int open_input(const std::string& path) {
  const int fd = path == "-" ? STDIN_FILENO : open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw FatalError(path + ": cannot be opened (" + std::strerror(errno) + ")");
  // A read that waits hears no stop(). Standard input is left as it is, for the sake of those who share it.
  if (path != "-") fcntl(fd, F_SETFL, O_NONBLOCK);
  return fd;
}

int open_event() {
  const int fd = eventfd(0, EFD_CLOEXEC);
  if (fd < 0) throw FatalError(std::string("cannot make an event (") + std::strerror(errno) + ")");
  return fd;
}

bool is_blank(const Line& line) {
  return line.error.empty() && line.text.find_first_not_of(" \t\r") == line.text.npos;
}

Line make_line(size_t number, std::string_view text, bool too_long, size_t longest_line) {
  if (too_long) {
    return {number, {}, "the line is longer than " + std::to_string(longest_line) + " bytes (--max-line-bytes)"};
  }
  if (number == 1 && text.substr(0, kByteOrderMark.size()) == kByteOrderMark) text.remove_prefix(kByteOrderMark.size());
  return {number, std::string(text), {}};
}

}  // namespace

LineReader::LineReader(const std::string& path, size_t longest_line)
    : name_(path == "-" ? "stdin" : path),
      longest_line_(longest_line),
      input_(open_input(path)),
      stop_event_(open_event()) {}

void LineReader::stop() {
  const uint64_t one = 1;
  // An eventfd's counter takes 2^64 - 2 such writes: this one cannot fail.
  [[maybe_unused]] const ssize_t written = write(stop_event_.get(), &one, sizeof one);
}

/// Like read, but fails with EAGAIN where it would wait, as another process that has the same pipe may have taken what
/// poll saw.
ssize_t LineReader::read_now(char* buffer, size_t size) const {
  struct stat kind;
  if (fstat(input_.get(), &kind) == 0 && !S_ISREG(kind.st_mode)) {
    iovec piece{buffer, size};
    const ssize_t got = preadv2(input_.get(), &piece, 1, -1, RWF_NOWAIT);
    // Terminals, named pipes, and pipes of older kernels know no such read; that it is the end, a plain one must say.
    if (got > 0 || (got < 0 && errno != EOPNOTSUPP)) return got;
  }
  return read(input_.get(), buffer, size);
}

LineReader::Fill LineReader::fill() {
  pollfd waiting[2] = {{input_.get(), POLLIN, 0}, {stop_event_.get(), POLLIN, 0}};
  while (poll(waiting, 2, -1) < 0) {
    if (errno != EINTR) throw FatalError(name_ + ": cannot be read (" + std::strerror(errno) + ")");
  }
  if (waiting[1].revents != 0) return Fill::kStopped;
  buffer_.erase(0, begin_);
  searched_ -= begin_;
  begin_ = 0;
  const size_t size = buffer_.size();
  buffer_.resize(size + kReadSize);
  const ssize_t got = read_now(buffer_.data() + size, kReadSize);
  buffer_.resize(size + static_cast<size_t>(got > 0 ? got : 0));
  if (got < 0 && errno != EINTR && errno != EAGAIN) {
    throw FatalError(name_ + ": cannot be read (" + std::strerror(errno) + ")");
  }
  return got == 0 ? Fill::kEnd : Fill::kMore;
}

Line LineReader::take(size_t end) {
  const bool too_long = dropping_ || end - begin_ > longest_line_;
  Line line = make_line(++line_number_, std::string_view(buffer_).substr(begin_, end - begin_), too_long, longest_line_);
  begin_ = searched_ = end < buffer_.size() ? end + 1 : end;
  dropping_ = false;
  return line;
}

std::optional<Line> LineReader::next() {
  while (true) {
    const size_t end = buffer_.find('\n', searched_);
    if (end != buffer_.npos) {
      Line line = take(end);
      if (!is_blank(line)) return line;
      continue;
    }
    searched_ = buffer_.size();
    if (searched_ - begin_ > longest_line_ || dropping_) {
      dropping_ = true;
      begin_ = searched_;
    }
    const Fill result = fill();
    if (result == Fill::kStopped) return std::nullopt;
    if (result == Fill::kEnd) break;
  }
  // What stands after the last line feed is a line too.
  if (begin_ == buffer_.size() && !dropping_) return std::nullopt;
  Line line = take(buffer_.size());
  if (is_blank(line)) return std::nullopt;
  return line;
}

std::vector<Line> lines_of(std::string_view text, size_t longest_line, size_t most_lines) {
  std::vector<Line> lines;
  for (size_t number = 1; !text.empty() && lines.size() < most_lines; ++number) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    lines.push_back(make_line(number, line, line.size() > longest_line, longest_line));
    if (is_blank(lines.back())) lines.pop_back();
  }
  return lines;
}
