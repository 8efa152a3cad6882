# fusco_absent(OUT HEADER REASON [EXCEPT...]) writes OUT, a C++ file with the functions that HEADER declares in a build
# that does not have them: what returns a status fails with E_BACKEND and REASON, everything else does nothing and returns
# zero. They are made
# from the declarations, so that none can be missing or have other parameters. EXCEPT: functions defined elsewhere.
function(fusco_absent out header reason)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${header})
  file(READ ${header} text)
  string(REGEX REPLACE "/\\*([^*]|\\*+[^*/])*\\*+/" "" text "${text}")
  string(REGEX REPLACE "#[^\n]*" "" text "${text}")
  # Only C++ sees templates.
  string(REGEX REPLACE "template <.*" "" text "${text}")
  # A semicolon would separate elements of a list.
  string(REPLACE ";" "@" text "${text}")
  string(REGEX MATCHALL "([a-z0-9_]+[ \n*]+)+fusco_[a-z0-9_]+\\([^()]*\\)[ \n]*@" declarations "${text}")
  string(REGEX MATCHALL "fusco_[a-z0-9_]+\\(" names "${text}")
  list(LENGTH declarations found)
  list(LENGTH names expected)
  if(NOT found EQUAL expected)
    message(FATAL_ERROR "${header}: ${found} of ${expected} declarations were understood")
  endif()
  set(functions "")
  foreach(declaration IN LISTS declarations)
    string(REGEX MATCH "(fusco_[a-z0-9_]+)\\(" ignored "${declaration}")
    if(CMAKE_MATCH_1 IN_LIST ARGN)
      continue()
    endif()
    string(REGEX REPLACE "[ \n]*@" "" declaration "${declaration}")
    if(declaration MATCHES "^fusco_status")
      string(APPEND functions "${declaration} { return absent(error)@ }\n")
    elseif(declaration MATCHES "^void fusco")
      string(APPEND functions "${declaration} {}\n")
    else()
      string(APPEND functions "${declaration} { return {}@ }\n")
    endif()
  endforeach()
  string(REPLACE "@" ";" functions "${functions}")
  file(CONFIGURE OUTPUT ${out} CONTENT "// Made from ${header} by absent.cmake.
#include \"${header}\"
#include \"guard.hpp\"
namespace {
fusco_status absent(fusco_error *error) {
  return fusco::report(fusco::Failure(FUSCO_E_BACKEND, \"${reason}\"), error);
}
}  // namespace
extern \"C\" {
${functions}}
" @ONLY)
  set_source_files_properties(${out} PROPERTIES COMPILE_OPTIONS -Wno-unused-parameter)
endfunction()
