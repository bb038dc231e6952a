#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "file_descriptor.h"

/// One line of the input, without its line feed.
struct Line {
  size_t number;  // from 1
  std::string text;
  bool too_long;  // over LineReader::kLongestLine: its text was dropped
};

/// Reads lines as they come, so that a line counts as soon as its line feed is there.
class LineReader {
 public:
  static constexpr size_t kLongestLine = 16 * 1024 * 1024;  // bytes

  /// `path` "-" is standard input. Throws FatalError where the file cannot be opened.
  explicit LineReader(const std::string& path);

  /// The next line that is not blank; empty at the end, or once stop() was called.
  /// Throws FatalError where reading fails.
  std::optional<Line> next();

  /// Ends a next() that waits on another thread.
  void stop();

  /// As messages name it: the path, or "stdin".
  const std::string& name() const { return name_; }

 private:
  enum class Fill { kMore, kEnd, kStopped };

  Fill fill();
  Line take(size_t end);

  std::string name_;
  FileDescriptor input_, stop_event_;
  std::string buffer_;
  size_t begin_ = 0, searched_ = 0;  // where the current line begins, and up to where it holds no line feed
  size_t line_number_ = 0;
  bool dropping_ = false;  // the current line is too long
};
