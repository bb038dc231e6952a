#pragma once

#include <string>

#include "model_info.h"
#include "prompt.h"
#include "session.h"

/// Whether an export still is what was exported, on this machine: reads all of the weights, and scores the golden
/// questions that lie beside it, whose ids must be the same and whose log-probs the same within a tolerance. Returns what
/// was found, one line. Throws FatalError, naming file and line, at the first thing that differs.
std::string check_export(const ModelInfo& model, const PromptEncoder& encoder, Session& session);
