#pragma once

#include <sys/types.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "file_descriptor.h"

/// One line of the input, without its line feed.
struct Line {
  size_t number;  // from 1
  std::string text;
  std::string error;  // of a line over the reader's limit, whose text was dropped
};

/// Reads lines as they come, so that a line counts as soon as its line feed is there.
class LineReader {
 public:
  /// `path` "-" is standard input; a line may have `longest_line` bytes. Throws FatalError where it cannot be opened.
  LineReader(const std::string& path, size_t longest_line);

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
  ssize_t read_now(char* buffer, size_t size) const;
  Line take(size_t end);

  const std::string name_;
  const size_t longest_line_;
  FileDescriptor input_, stop_event_;
  std::string buffer_;
  size_t begin_ = 0, searched_ = 0;  // where the current line begins, and up to where it holds no line feed
  size_t line_number_ = 0;
  bool dropping_ = false;  // the current line is too long
};

/// The lines that a reader would give of a text that lies in memory, the first `most_lines` of them.
std::vector<Line> lines_of(std::string_view text, size_t longest_line, size_t most_lines);
