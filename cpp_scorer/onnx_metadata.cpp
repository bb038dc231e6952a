#include "onnx_metadata.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>

#include "errors.h"

namespace {

// The protobuf wire format (https://protobuf.dev/programming-guides/encoding).
constexpr uint64_t kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5;

// The field numbers of onnx.proto. The members are every way from a model to a tensor, in subgraphs and functions too.
enum class Message { kModel, kFunction, kGraph, kNode, kAttribute, kSparseTensor, kTensor };
struct Member {
  Message of;
  uint64_t field;
  Message type;
};
constexpr Member kMembers[] = {
    {Message::kModel, 7, Message::kGraph},           {Message::kModel, 25, Message::kFunction},
    {Message::kFunction, 7, Message::kNode},         {Message::kGraph, 1, Message::kNode},
    {Message::kGraph, 5, Message::kTensor},          {Message::kGraph, 15, Message::kSparseTensor},
    {Message::kNode, 5, Message::kAttribute},        {Message::kAttribute, 5, Message::kTensor},
    {Message::kAttribute, 6, Message::kGraph},       {Message::kAttribute, 10, Message::kTensor},
    {Message::kAttribute, 11, Message::kGraph},      {Message::kAttribute, 22, Message::kSparseTensor},
    {Message::kAttribute, 23, Message::kSparseTensor}, {Message::kSparseTensor, 1, Message::kTensor},
    {Message::kSparseTensor, 2, Message::kTensor}};
constexpr uint64_t kMetadataProps = 14, kExternalData = 13;  // of a model, of a tensor: lists of entries
constexpr uint64_t kEntryKey = 1, kEntryValue = 2;

constexpr uint64_t kLargestText = 64 * 1024 * 1024;  // bytes of all entries; more is no model of ours
constexpr int kDeepest = 32;                          // messages within messages

class OnnxReader {
 public:
  OnnxReader(std::istream& bytes, std::string name) : bytes_(bytes), name_(std::move(name)) {}

  OnnxMetadata read(uint64_t size) {
    read_message(Message::kModel, size, 0);
    if (!has_graph_) fail("truncated, or not an ONNX model");
    return std::move(result_);
  }

 private:
  /// A field's number, and the size of its payload, which comes next.
  struct Field {
    uint64_t number, size;
  };

  /// The next field of a message that ends at `end`.
  Field next_field(uint64_t end) {
    const uint64_t tag = varint(end);
    uint64_t size = 0;
    switch (tag & 7) {
      case kVarint: varint(end); break;
      case kFixed64: size = 8; break;
      case kLengthDelimited: size = varint(end); break;
      case kFixed32: size = 4; break;
      default: fail("not an ONNX model");
    }
    if (size > end - position_) fail("truncated, or not an ONNX model");
    return {tag >> 3, size};
  }

  void read_message(Message message, uint64_t size, int depth) {
    if (depth > kDeepest) fail("nested deeper than " + std::to_string(kDeepest) + " messages; not a model of ours");
    for (const uint64_t end = position_ + size; position_ < end;) {
      const Field field = next_field(end);
      if (message == Message::kModel && field.number == kMetadataProps) {
        auto [key, value] = entry(field.size);
        result_.entries[std::move(key)] = std::move(value);
      } else if (message == Message::kTensor && field.number == kExternalData) {
        auto [key, value] = entry(field.size);
        if (key == "location") result_.data_files.insert(std::move(value));
      } else if (const auto member = member_type(message, field.number)) {
        has_graph_ = has_graph_ || *member == Message::kGraph;
        read_message(*member, field.size, depth + 1);
      } else {
        skip(field.size);
      }
    }
  }

  static std::optional<Message> member_type(Message of, uint64_t field) {
    for (const Member& member : kMembers) {
      if (member.of == of && member.field == field) return member.type;
    }
    return std::nullopt;
  }

  std::pair<std::string, std::string> entry(uint64_t size) {
    std::string key, value;
    for (const uint64_t end = position_ + size; position_ < end;) {
      const Field field = next_field(end);
      if (field.number == kEntryKey) key = text(field.size);
      else if (field.number == kEntryValue) value = text(field.size);
      else skip(field.size);
    }
    return {key, value};
  }

  std::string text(uint64_t size) {
    if (size > kLargestText - text_read_) fail("more than 64 MiB of metadata; not a model of ours");
    text_read_ += size;
    std::string text(size, '\0');
    bytes_.read(text.data(), static_cast<std::streamsize>(size));
    if (!bytes_) fail(std::string("cannot be read (") + std::strerror(errno) + ")");
    position_ += size;
    return text;
  }

  void skip(uint64_t size) {
    position_ += size;
    bytes_.seekg(static_cast<std::streamoff>(size), std::ios::cur);
  }

  uint64_t varint(uint64_t end) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const int byte = position_ < end ? bytes_.get() : EOF;
      if (byte == EOF) fail("truncated, or not an ONNX model");
      ++position_;
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    fail("not an ONNX model");
  }

  [[noreturn]] void fail(const std::string& what) const { throw FatalError(name_ + ": " + what); }

  std::istream& bytes_;
  std::string name_;
  uint64_t position_ = 0, text_read_ = 0;
  bool has_graph_ = false;
  OnnxMetadata result_;
};

}  // namespace

OnnxMetadata read_onnx_metadata(const std::string& path) {
  std::error_code error;
  const uint64_t size = std::filesystem::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  if (error || !file) {
    throw FatalError(path + ": cannot be read (" + (error ? error.message() : std::strerror(errno)) + ")");
  }
  return read_onnx_metadata(file, size, path);
}

OnnxMetadata read_onnx_metadata(std::istream& bytes, uint64_t size, const std::string& name) {
  return OnnxReader(bytes, name).read(size);
}
