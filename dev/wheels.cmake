# Included by every project that dev/setup and dev/test build against the ROS wheels (CMAKE_PROJECT_INCLUDE).
# The targets of the wheels have include folders of the machine that built them (/opt/python/...), and CMake rejects a
# target with a folder that does not exist. At the end of the project's file they are taken out.
function(drop_folders_of_other_machines)
  get_directory_property(targets IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(folders)
      list(FILTER folders EXCLUDE REGEX "^/opt/python")
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${folders}")
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL drop_folders_of_other_machines)
