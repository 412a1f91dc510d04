// A Python module that holds the facts of a build, as strings, in CPython's stable ABI: beside
// torch's, it makes one binary for every Python from 3.10 on. The operators themselves need no
// Python.
#pragma once

#include <pyconfig.h>    // which says whether this Python has a global lock
#ifndef Py_GIL_DISABLED  // free-threaded Pythons have no such ABI: theirs is a build of its own
#undef Py_LIMITED_API    // torch's build helper names the oldest Python that torch serves
#define Py_LIMITED_API 0x030a0000
#endif
#include <Python.h>

#include <exception>
#include <new>
#include <string>
#include <utility>
#include <vector>

namespace focaldet {

using Facts = std::vector<std::pair<const char*, std::string>>;

// What PyInit_* returns: the module, or nullptr with Python's exception set. Once in a library.
inline PyObject* module_of_facts(const char* name, const char* doc, Facts (*facts)()) {
  static PyModuleDef definition{
      PyModuleDef_HEAD_INIT, name, doc, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  PyObject* module = PyModule_Create(&definition);
  if (!module) return nullptr;
#ifdef Py_GIL_DISABLED
  PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);  // no operator touches a Python object
#endif
  try {
    for (const auto& [key, value] : facts()) {
      if (PyModule_AddStringConstant(module, key, value.c_str()) < 0) throw std::bad_alloc();
    }
    return module;
  } catch (const std::exception& error) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_ImportError, error.what());
    Py_DECREF(module);
    return nullptr;
  }
}

}  // namespace focaldet
