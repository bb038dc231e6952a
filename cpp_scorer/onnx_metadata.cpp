#include "onnx_metadata.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include "errors.h"

namespace {

// The protobuf wire format (https://protobuf.dev/programming-guides/encoding) and the field numbers of onnx.proto.
constexpr uint64_t kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5;
constexpr uint64_t kGraph = 7, kMetadataProps = 14;      // of ModelProto
constexpr uint64_t kEntryKey = 1, kEntryValue = 2;       // of StringStringEntryProto
constexpr uint64_t kLargestMetadata = 16 * 1024 * 1024;  // bytes; more is no metadata of ours

/// Reads fields one after the other from a file, between a beginning and an end.
class FieldReader {
 public:
  FieldReader(std::ifstream& file, const std::string& path, uint64_t size) : file_(file), path_(path), end_(size) {}

  /// The next field's number, with its payload's size; nothing at the end. The caller reads or skips the payload.
  std::optional<uint64_t> next() {
    if (position_ == end_) return std::nullopt;
    const uint64_t tag = varint();
    switch (tag & 7) {
      case kVarint: varint(), payload_ = 0; break;
      case kFixed64: payload_ = 8; break;
      case kLengthDelimited: payload_ = varint(); break;
      case kFixed32: payload_ = 4; break;
      default: throw FatalError(path_ + ": not an ONNX model");
    }
    if (payload_ > end_ - position_) throw FatalError(path_ + ": truncated, or not an ONNX model");
    return tag >> 3;
  }

  void skip() {
    position_ += payload_;
    file_.seekg(static_cast<std::streamoff>(payload_), std::ios::cur);
  }

  std::string text() {
    if (payload_ > kLargestMetadata) throw FatalError(path_ + ": not an ONNX model");
    std::string bytes(payload_, '\0');
    file_.read(bytes.data(), static_cast<std::streamsize>(payload_));
    if (!file_) throw FatalError(path_ + ": cannot be read (" + std::strerror(errno) + ")");
    position_ += payload_;
    return bytes;
  }

  /// A reader for the fields inside the payload, over the same file.
  FieldReader inside() const { return {file_, path_, payload_}; }
  void passed() { position_ += payload_; }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const int byte = position_ < end_ ? file_.get() : EOF;
      if (byte == EOF) throw FatalError(path_ + ": truncated, or not an ONNX model");
      ++position_;
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    throw FatalError(path_ + ": not an ONNX model");
  }

  std::ifstream& file_;
  const std::string& path_;
  uint64_t position_ = 0, end_, payload_ = 0;
};

}  // namespace

std::map<std::string, std::string> read_onnx_metadata(const std::string& path) {
  std::error_code error;
  const uint64_t size = std::filesystem::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  if (error || !file) {
    throw FatalError(path + ": cannot be read (" + (error ? error.message() : std::strerror(errno)) + ")");
  }

  std::map<std::string, std::string> metadata;
  bool has_graph = false;
  FieldReader model(file, path, size);
  while (const auto field = model.next()) {
    has_graph = has_graph || *field == kGraph;
    if (*field != kMetadataProps) {
      model.skip();
      continue;
    }
    std::string key, value;
    FieldReader entry = model.inside();
    while (const auto part = entry.next()) {
      if (*part == kEntryKey) key = entry.text();
      else if (*part == kEntryValue) value = entry.text();
      else entry.skip();
    }
    model.passed();
    metadata[key] = value;
  }
  if (!has_graph) throw FatalError(path + ": truncated, or not an ONNX model");
  return metadata;
}
