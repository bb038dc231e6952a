#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "file_descriptor.h"

/// Where lines go. A regular file appears under its name only by commit(), whole. Until then they gather in another,
/// PATH.XXXXXXXX.partial, which appears with the first line and stays, with whole lines alone, if commit() never comes:
/// what was computed is not lost, and what is half-written is not taken for the whole.
class OutputFile {
 public:
  /// `path` "-" is standard output. A pipe, a device, and what stands for an open descriptor (/dev/stdout, /dev/fd/63)
  /// are written to directly. Throws FatalError where it cannot be written to.
  explicit OutputFile(const std::string& path);

  /// Takes whole lines and hands them to the system at once: the reader at the other end of a pipe sees them now.
  /// Throws FatalError where that fails.
  void write(std::string_view lines);

  /// Gives the file its name, once, without lines too. Where it cannot be renamed, say for being a mount point of its
  /// own, an existing file is written over. Throws FatalError where that fails too.
  void commit();

  /// What an error's line must add: "; what was answered is in 'PATH'", or nothing where all of it has left, or none.
  std::string kept() const;

 private:
  FileDescriptor create_partial();
  void write_all(const FileDescriptor& file, std::string_view text) const;
  void copy_into_place() const;
  void drop_partial();
  [[noreturn]] void fail(const char* what) const;

  std::string name_;    // as messages call it
  std::string target_;  // a regular file, at the end of its links: those stay; empty where lines leave directly
  std::string partial_path_;
  FileDescriptor output_;  // of the partial file: open from its first line to commit()
  off_t size_ = 0;         // of the partial file's whole lines, bytes
};
