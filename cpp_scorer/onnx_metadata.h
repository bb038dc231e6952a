#pragma once

#include <map>
#include <string>

/// The custom metadata of an ONNX file, read without loading the model: a mixture is refused before gigabytes are read.
/// Throws FatalError where the file cannot be read, is truncated, or is no ONNX model.
std::map<std::string, std::string> read_onnx_metadata(const std::string& path);
