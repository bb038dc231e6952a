#pragma once

#include <string>
#include <string_view>

#include "file_descriptor.h"

/// Where lines go. A regular file appears under its name only by commit(): until then it has a temporary name, or where
/// the file system can, none at all, so that nothing half-written stays behind, whatever ends the program.
class OutputFile {
 public:
  /// `path` "-" is standard output; a pipe or a device is written to directly. Throws FatalError where it cannot be.
  explicit OutputFile(const std::string& path);
  ~OutputFile();

  /// Hands all of it to the system at once: the reader at the other end of a pipe sees it now.
  /// Throws FatalError where that fails.
  void write(std::string_view text);

  /// Gives the file its name. Throws FatalError where that fails.
  void commit();

 private:
  enum class Kind { kDirect, kAnonymous, kTemporary };

  int open();
  [[noreturn]] void fail(const char* what) const;

  std::string path_;  // resolved: a link's target is replaced, not the link
  std::string temporary_path_;
  Kind kind_ = Kind::kDirect;
  FileDescriptor output_;
};
