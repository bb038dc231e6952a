# onnxruntime and nlohmann/json, found in this order: -DONNXRUNTIME_ROOT and -DJSON_ROOT, the system, .deps/. What is
# missing there is fetched into .deps/ with -DFETCH_DEPENDENCIES=ON, as tools/build_scorer.sh asks, and named without.
# An onnxruntime too old to run the graph is passed over. Targets: onnxruntime, json.

find_package(Threads REQUIRED)
set(DEPS ${CMAKE_CURRENT_SOURCE_DIR}/../.deps)
set(ONNXRUNTIME_ROOT "" CACHE PATH "Folder with onnxruntime's include and lib; overrides the system's")
set(JSON_ROOT "" CACHE PATH "Folder with include/nlohmann/json.hpp; overrides the system's")
option(FETCH_DEPENDENCIES "Fetch what is missing, with tools/get_native_deps.sh" OFF)
# 1.x: the first with kernels for the graph's operators (opset 23). session.cpp refuses older ones at start.
set(OLDEST_ONNXRUNTIME 23)

# Looks in one folder, or where that is empty in the system; a variable, not the cache, so that each run looks again.
function(find_onnxruntime root)
  unset(ORT_INCLUDE CACHE)
  unset(ORT_LIBRARY CACHE)
  if(root)
    set(where PATHS ${root} NO_DEFAULT_PATH)
  endif()
  find_path(ORT_INCLUDE onnxruntime_cxx_api.h ${where}
    PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session onnxruntime onnxruntime/core/session)
  find_library(ORT_LIBRARY NAMES onnxruntime libonnxruntime.so.1 ${where} PATH_SUFFIXES lib lib64)
  if(ORT_INCLUDE AND ORT_LIBRARY)
    # Its symbols bear its version; headers of version 1.x ask for interface x.
    file(STRINGS ${ORT_LIBRARY} library REGEX "^VERS_1[.][0-9]+[.]" LIMIT_COUNT 1)
    file(STRINGS ${ORT_INCLUDE}/onnxruntime_c_api.h headers REGEX "^#define ORT_API_VERSION [0-9]+")
    string(REGEX REPLACE "^VERS_1[.]([0-9]+)[.].*" "\\1" library "${library}")
    string(REGEX REPLACE "[^0-9]" "" headers "${headers}")
    if(library AND (library LESS OLDEST_ONNXRUNTIME OR library LESS headers))
      message(STATUS "${ORT_LIBRARY} is onnxruntime 1.${library}, too old: 1.${OLDEST_ONNXRUNTIME} or newer is needed, \
and not older than its headers (1.${headers})")
      unset(ORT_LIBRARY CACHE)
    endif()
  endif()
endfunction()

function(find_json root)
  unset(JSON_INCLUDE CACHE)
  if(root)
    set(where PATHS ${root} NO_DEFAULT_PATH)
  endif()
  find_path(JSON_INCLUDE nlohmann/json.hpp ${where} PATH_SUFFIXES include)
endfunction()

find_onnxruntime("${ONNXRUNTIME_ROOT}")
find_json("${JSON_ROOT}")
if(ONNXRUNTIME_ROOT AND NOT (ORT_INCLUDE AND ORT_LIBRARY))
  message(FATAL_ERROR "ONNXRUNTIME_ROOT=${ONNXRUNTIME_ROOT} lacks onnxruntime_cxx_api.h or a libonnxruntime.so of \
version 1.${OLDEST_ONNXRUNTIME} or newer")
endif()
if(JSON_ROOT AND NOT JSON_INCLUDE)
  message(FATAL_ERROR "JSON_ROOT=${JSON_ROOT} lacks include/nlohmann/json.hpp")
endif()

set(missing "")
if(NOT (ORT_INCLUDE AND ORT_LIBRARY))
  find_onnxruntime(${DEPS}/onnxruntime)
  # A link into the Python environment, as was made here once, breaks when either is moved or copied.
  if(NOT (ORT_INCLUDE AND ORT_LIBRARY) OR IS_SYMLINK ${ORT_LIBRARY})
    list(APPEND missing onnxruntime)
  endif()
endif()
if(NOT JSON_INCLUDE)
  find_json(${DEPS}/json)
  if(NOT JSON_INCLUDE)
    list(APPEND missing json)
  endif()
endif()
if(missing)
  string(REPLACE ";" " " names "${missing}")
  if(NOT FETCH_DEPENDENCIES)
    message(FATAL_ERROR "missing: ${names}. Fetch them with tools/get_native_deps.sh ${names}, or say where they are \
with -DONNXRUNTIME_ROOT=DIR and -DJSON_ROOT=DIR")
  endif()
  execute_process(RESULT_VARIABLE failed COMMAND ${CMAKE_COMMAND} -E env CMAKE=${CMAKE_COMMAND}
    sh ${CMAKE_CURRENT_SOURCE_DIR}/../tools/get_native_deps.sh ${missing})
  if(failed)
    message(FATAL_ERROR "could not get: ${names}")
  endif()
  if("onnxruntime" IN_LIST missing)
    find_onnxruntime(${DEPS}/onnxruntime)
  endif()
  if("json" IN_LIST missing)
    find_json(${DEPS}/json)
  endif()
endif()
message(STATUS "onnxruntime: ${ORT_INCLUDE}, ${ORT_LIBRARY}")
message(STATUS "nlohmann/json: ${JSON_INCLUDE}")

add_library(onnxruntime INTERFACE IMPORTED)
set_target_properties(onnxruntime PROPERTIES INTERFACE_INCLUDE_DIRECTORIES ${ORT_INCLUDE}
  INTERFACE_LINK_LIBRARIES "-Wl,${ORT_LIBRARY}")  # as a flag: CMake would add the folder's absolute path to the program
add_library(json INTERFACE IMPORTED)
set_target_properties(json PROPERTIES INTERFACE_INCLUDE_DIRECTORIES ${JSON_INCLUDE})
