// csrc/ops.cpp holds the schemas, which are needed here, and the Python module, which is not: the
// facts of the build go nowhere.
#pragma once

#include <string>

#include "../registration.h"

namespace pybind11 {
struct module_ {
  std::string fact;
  std::string& doc() { return fact; }
  std::string& attr(const char*) { return fact; }
};
}  // namespace pybind11

#define PYBIND11_MODULE(name, m) [[maybe_unused]] static void name##_facts(pybind11::module_& m)
