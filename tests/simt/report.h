// How the machine says where and what.
#pragma once

#include <string>

#include "runtime.h"

namespace simt {

std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));

// file:line
std::string name(const Site& site);

// "function at file:line" of an address in this library, without namespaces and parameters.
std::string symbol(const void* address);

}  // namespace simt
