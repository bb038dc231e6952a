#pragma once

#include <cstdint>
#include <map>
#include <string>

/// ONNX files made byte by byte: the protobuf wire format, with the field numbers of onnx.proto.

using Metadata = std::map<std::string, std::string>;

inline std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 128; value >>= 7) bytes += static_cast<char>(value | 128);
  return bytes + static_cast<char>(value);
}

inline std::string field(uint64_t number, const std::string& payload) {
  return varint(number << 3 | 2) + varint(payload.size()) + payload;
}

/// A TensorProto whose data lie in another file.
inline std::string tensor_in(const std::string& file) {
  return field(13, field(1, "location") + field(2, file)) + field(13, field(1, "offset") + field(2, "0"));
}

/// A ModelProto: ir_version, a graph with a tensor of 1,000 bytes and what `graph` adds, metadata_props.
inline std::string onnx(const Metadata& metadata, const std::string& graph = "") {
  const std::string inline_tensor = field(9, std::string(1000, '\xff'));
  std::string bytes = varint(1 << 3) + varint(10) + field(7, field(5, inline_tensor) + graph);
  for (const auto& [key, value] : metadata) bytes += field(14, field(1, key) + field(2, value));
  return bytes;
}
