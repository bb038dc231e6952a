#pragma once

#include <cstdint>
#include <istream>
#include <map>
#include <set>
#include <string>

/// What stands in an ONNX file, read without loading the model: a mixture is refused before gigabytes are read.
struct OnnxMetadata {
  std::map<std::string, std::string> entries;  // the custom metadata
  std::set<std::string> data_files;            // where its tensors say that their data lie
};

/// Throws FatalError where the file cannot be read, is truncated, or is no ONNX model.
OnnxMetadata read_onnx_metadata(const std::string& path);

/// The same of `size` bytes; messages call them `name`.
OnnxMetadata read_onnx_metadata(std::istream& bytes, uint64_t size, const std::string& name);
