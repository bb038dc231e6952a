#include "line_reader.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

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
  return fd;
}

int open_event() {
  const int fd = eventfd(0, EFD_CLOEXEC);
  if (fd < 0) throw FatalError(std::string("cannot make an event (") + std::strerror(errno) + ")");
  return fd;
}

bool is_blank(const std::string& text) { return text.find_first_not_of(" \t\r") == text.npos; }

}  // namespace

LineReader::LineReader(const std::string& path)
    : name_(path == "-" ? "stdin" : path), input_(open_input(path)), stop_event_(open_event()) {}

void LineReader::stop() {
  const uint64_t one = 1;
  // An eventfd's counter takes 2^64 - 2 such writes: this one cannot fail.
  [[maybe_unused]] const ssize_t written = write(stop_event_.get(), &one, sizeof one);
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
  const ssize_t got = read(input_.get(), buffer_.data() + size, kReadSize);
  buffer_.resize(size + static_cast<size_t>(got > 0 ? got : 0));
  if (got < 0 && errno != EINTR && errno != EAGAIN) {
    throw FatalError(name_ + ": cannot be read (" + std::strerror(errno) + ")");
  }
  return got == 0 ? Fill::kEnd : Fill::kMore;
}

Line LineReader::take(size_t end) {
  Line line{++line_number_, dropping_ ? "" : buffer_.substr(begin_, end - begin_), dropping_};
  if (line.number == 1 && line.text.rfind(kByteOrderMark, 0) == 0) line.text.erase(0, kByteOrderMark.size());
  begin_ = searched_ = end < buffer_.size() ? end + 1 : end;
  dropping_ = false;
  return line;
}

std::optional<Line> LineReader::next() {
  while (true) {
    const size_t end = buffer_.find('\n', searched_);
    if (end != buffer_.npos) {
      Line line = take(end);
      if (line.too_long || !is_blank(line.text)) return line;
      continue;
    }
    searched_ = buffer_.size();
    if (searched_ - begin_ > kLongestLine || dropping_) {
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
  if (!line.too_long && is_blank(line.text)) return std::nullopt;
  return line;
}
