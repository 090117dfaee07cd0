# Stands in for Vivado's commands: refuses what is unknown, unconnected, doubly driven or overlapping.
# Set before it is read: names (rows of names.tsv), prepared (folder with constants.tcl and
# overlay.v), ports (name -> direction of the gateware's ports), outcome (dictionary of results).
# Calls are left in `log`.

set log {}
set cells {}        ;# instance -> block
set config {}       ;# "instance CONFIG" -> value
set driver {}       ;# pin that is driven -> driver
set joined {}       ;# interface pin -> the other
set placed {}       ;# space -> {segment base span} ...
set settled {}      ;# "space segment", assigned or excluded
set external {}     ;# ports of the design
set objects {}      ;# of the IP packager: handle -> dictionary
set count 0
set mapped {}       ;# ports of the gateware -> interface

proc unknown {name args} { error "unknown command $name" }
proc note {args} { lappend ::log $args }
proc refuse {message} { error $message }

proc table {block kind} {
    set found {}
    foreach row $::names {
        lassign $row its_block its_kind name is when
        if {$its_block eq $block && $its_kind eq $kind} { dict set found $name [list $is $when] }
    }
    return $found
}
proc block_of {cell} {
    if {![dict exists $::cells $cell]} { refuse "no cell $cell" }
    return [dict get $::cells $cell]
}
proc entry {path kind} {
    set slash [string first / $path]
    set cell [string range $path 0 $slash-1]
    set name [string range $path $slash+1 end]
    set found [table [block_of $cell] $kind]
    if {![dict exists $found $name]} { refuse "no $kind $name at $cell" }
    return [dict get $found $name]
}
proc in_use {cell when} {
    if {$when in {always -}} { return [expr {$when eq "always"}] }
    return [expr {[dict exists $::config "$cell CONFIG.$when"] &&
                  [dict get $::config "$cell CONFIG.$when"] eq "1"}]
}
proc options {words flags} {
    # Split words into options with a value, flags, and the rest.
    set found {}
    set rest {}
    for {set i 0} {$i < [llength $words]} {incr i} {
        set word [lindex $words $i]
        if {[string index $word 0] ne "-"} { lappend rest $word; continue }
        if {$word in $flags} { dict set found $word 1; continue }
        incr i
        if {$i >= [llength $words]} { refuse "no value after $word" }
        dict set found $word [lindex $words $i]
    }
    return [list $found $rest]
}

# --- project and runs ------------------------------------------------------------------------

proc exec {args} {
    set wanted [list env -u PYTHONHOME -u PYTHONPATH -u LD_LIBRARY_PATH * -m ciuic_hw.build.vivado \
        --board * -o *]
    if {[llength $args] != [llength $wanted]} { refuse "unexpected program: $args" }
    foreach word $args pattern $wanted {
        if {![string match $pattern $word]} { refuse "unexpected program: $args" }
    }
    foreach file {constants.tcl overlay.v} { file copy -force $::prepared/$file [lindex $args end] }
}
proc version {what} { return 2024.1 }
proc create_project {args} {
    lassign [options $args -force] found rest
    if {[llength $rest] != 2 || ![dict exists $found -part]} { refuse "create_project $args" }
    set ::project [lindex $rest 1]
    note create_project {*}$rest [dict get $found -part]
    file mkdir $::project
}
proc close_project {} {}
proc current_project {} { return project }
proc current_fileset {} { return sources_1 }
proc add_files {args} {
    set file [lindex $args end]
    if {[lindex $args 0] ne "-norecurse"} { refuse "add_files $args" }
    if {$file ne "wrapper" && ![file exists $file]} { refuse "no file $file" }
}
proc update_compile_order {args} {}
proc update_ip_catalog {} { note update_ip_catalog }
proc get_board_parts {args} { return [dict get $::outcome board_parts] }
proc get_files {name} { if {$name ne "ciuic.bd"} { refuse "no file $name" }; return $name }
proc generate_target {what design} { note generate_target $what }
proc make_wrapper {args} { return wrapper }
proc get_runs {name} {
    if {$name ni {synth_1 impl_1}} { refuse "no run $name" }
    return run:$name
}
proc launch_runs {run args} {
    get_runs $run
    note launch_runs $run {*}$args
    if {[string match *write_bitstream* $args]} {
        file mkdir $::project/ciuic.runs/impl_1 $::project/ciuic.gen/sources_1/bd/ciuic/hw_handoff
        close [open $::project/ciuic.runs/impl_1/ciuic_wrapper.bit w]
        close [open $::project/ciuic.gen/sources_1/bd/ciuic/hw_handoff/ciuic.hwh w]
    }
}
proc wait_on_run {run} { get_runs $run }
proc open_run {run} { get_runs $run; note open_run $run }
proc report_timing_summary {option file} { close [open $file w] }
proc report_utilization {flag option file} { close [open $file w] }
proc write_hw_platform {args} {
    lassign [options [lrange $args 0 end-1] {-fixed -include_bit -force -file}] found
    if {![dict exists $found -include_bit]} { refuse "write_hw_platform $args" }
    close [open [lindex $args end] w]
}

# --- block design ----------------------------------------------------------------------------

proc create_bd_design {name} { note create_bd_design $name }
proc create_bd_cell {args} {
    lassign [options $args {}] found name
    set vlnv [dict get $found -vlnv]
    lassign [split $vlnv :] vendor library kind version
    set block $kind:$version
    if {$vlnv eq $::packaged} {
        set block ip
    } elseif {$vendor ne "xilinx.com" || $block ni [dict keys [table $block block]]} {
        refuse "no IP $vlnv"
    }
    if {[dict exists $::cells $name]} { refuse "two cells $name" }
    dict set ::cells $name $block
    return $name
}
proc get_bd_cells {name} { block_of $name; return $name }
proc get_bd_pins {path} { entry $path pin; return $path }
proc get_bd_intf_pins {path} { entry $path interface; return $path }
proc create_bd_intf_port {args} {
    lassign [options $args {}] found name
    dict set ::external $name [dict get $found -mode]
}
proc get_bd_intf_ports {name} {
    if {![dict exists $::external $name]} { refuse "no port $name" }
    return :$name
}
proc apply_bd_automation {args} {
    lassign [options $args {}] found rest
    block_of $rest
    if {[dict get $found -rule] ne "xilinx.com:bd_rule:zynq_ultra_ps_e"} { refuse "no rule" }
}
proc connect_bd_net {args} {
    set source {}
    set loads {}
    foreach pin $args {
        if {[lindex [entry $pin pin] 0] eq "O"} { lappend source $pin } { lappend loads $pin }
    }
    if {[llength $source] != 1} { refuse "a net must have one driver, not [llength $source]: $args" }
    if {![llength $loads]} { refuse "$source drives nothing" }
    dict set ::driver [lindex $source 0] itself
    foreach pin $loads {
        if {[dict exists $::driver $pin]} { refuse "$pin is driven twice" }
        dict set ::driver $pin [lindex $source 0]
    }
}
proc connect_bd_intf_net {one two} {
    set modes {}
    foreach pin [list $one $two] {
        if {[dict exists $::joined $pin]} { refuse "$pin is connected twice" }
        # A port passes on what is inside, so it counts as the other end.
        lappend modes [expr {[string index $pin 0] eq ":" ? "slave" : [lindex [entry $pin interface] 0]}]
    }
    if {[lsort $modes] ne {master slave}} { refuse "$one and $two are both [lindex $modes 0]" }
    dict set ::joined $one $two
    dict set ::joined $two $one
}
proc get_bd_addr_spaces {path} { entry $path space; return $path }
proc get_bd_addr_segs {path} { entry $path segment; return $path }
proc reaches {space segment} {
    # The segment's interface must be behind the space's, through the interconnect or directly.
    set master [lindex [split $space /] 0]/[lindex [entry $space space] 0]
    set slave [lindex [split $segment /] 0]/[lindex [entry $segment segment] 0]
    if {![dict exists $::joined $master] || ![dict exists $::joined $slave]} { return 0 }
    set there [dict get $::joined $master]
    set here [dict get $::joined $slave]
    return [expr {$there eq $slave || [lindex [split $there /] 0] eq [lindex [split $here /] 0]}]
}
proc assign_bd_address {args} {
    lassign [options $args -force] found segment
    foreach option {-offset -range -target_address_space} {
        if {![dict exists $found $option]} { refuse "assign_bd_address without $option" }
    }
    set space [dict get $found -target_address_space]
    set base [expr {[dict get $found -offset]}]
    set span [expr {[dict get $found -range]}]
    if {![reaches $space $segment]} { refuse "$segment cannot be reached from $space" }
    if {$span < 4096 || $span & ($span - 1) || $base % $span} {
        refuse "$segment: $span bytes at $base are no aligned power of two"
    }
    lassign [split [lindex [entry $segment segment] 1] +] low limit
    if {$span > $limit || ($low ne "0x0" && $base != $low)} { refuse "$segment is not at $base" }
    if {"$space $segment" in $::settled} { refuse "$segment is placed twice in $space" }
    if {[dict exists $::placed $space]} {
        foreach other [dict get $::placed $space] {
            lassign $other its_segment its_base its_span
            if {$base < $its_base + $its_span && $its_base < $base + $span} {
                refuse "$segment overlaps $its_segment in $space"
            }
        }
    }
    dict lappend ::placed $space [list $segment $base $span]
    lappend ::settled "$space $segment"
}
proc exclude_bd_addr_seg {args} {
    lassign [options $args {}] found segment
    set space [dict get $found -target_address_space]
    if {![reaches $space $segment]} { refuse "$segment cannot be reached from $space" }
    lappend ::settled "$space $segment"
}
proc validate_bd_design {} {
    dict for {cell block} $::cells {
        dict for {name about} [table $block pin] {
            lassign $about direction when
            if {[in_use $cell $when] && ![dict exists $::driver $cell/$name]} {
                refuse "$cell/$name is not connected"
            }
            if {$direction eq "I" && [dict exists $::driver $cell/$name] && $when ne "always" &&
                ![in_use $cell $when]} { refuse "$cell/$name is not enabled" }
        }
        dict for {name about} [table $block interface] {
            set connected [dict exists $::joined $cell/$name]
            if {[in_use $cell [lindex $about 1]] != $connected} {
                refuse "$cell/$name is [expr {$connected ? "not enabled" : "not connected"}]"
            }
        }
    }
    # Every segment that a master reaches must be placed or excluded.
    dict for {cell block} $::cells {
        dict for {space about} [table $block space] {
            dict for {other its_block} $::cells {
                dict for {segment where} [table $its_block segment] {
                    if {[reaches $cell/$space $other/$segment] &&
                        "$cell/$space $other/$segment" ni $::settled} {
                        refuse "$other/$segment is not placed in $cell/$space"
                    }
                }
            }
        }
    }
    note validate_bd_design
}
proc save_bd_design {} {
    if {"validate_bd_design" ni $::log} { refuse "the design was not validated" }
}

# --- properties ------------------------------------------------------------------------------

proc set_property {args} {
    if {[lindex $args 0] eq "-dict"} {
        lassign $args dash values object
        if {[llength $values] % 2} { refuse "an odd number of words: $values" }
    } else {
        if {[llength $args] != 3} { refuse "set_property $args" }
        lassign $args name value object
        set values [list $name $value]
    }
    foreach {name value} $values { set_one $name $value $object }
}
proc set_one {name value object} {
    if {[dict exists $::cells $object]} {
        set known [dict keys [table [dict get $::cells $object] config]]
        if {[string range $name 0 6] ne "CONFIG." || [string range $name 7 end] ni $known} {
            refuse "no $name at $object"
        }
        dict set ::config "$object $name" $value
    } elseif {[dict exists $::objects $object]} {
        set kind [dict get $::objects $object kind]
        if {$name ni [dict get $::properties $kind]} { refuse "no property $name of $kind" }
        dict set ::objects $object $name $value
    } elseif {$object in {project sources_1}} {
        if {$name ni {top board_part ip_repo_paths}} { refuse "no property $name of $object" }
        note set_property $name $value
    } else {
        refuse "no object $object"
    }
}
proc get_property {name object} {
    if {[dict exists $::objects $object]} { return [dict get $::objects $object $name] }
    if {![string match run:* $object]} { refuse "no object $object" }
    if {![dict exists $::outcome $name]} { refuse "no property $name of $object" }
    return [dict get $::outcome $name]
}

# --- packaging -------------------------------------------------------------------------------

set packaged ""
set properties {
    core {name version display_name supported_families}
    bus {abstraction_type_vlnv bus_type_vlnv interface_mode slave_memory_map_ref
        master_address_space_ref}
    map {physical_name} parameter {value} memory_map {} space {range width}
    block {base_address range width usage}
    register {address_offset size access} field {bit_offset bit_width access}
}
proc object {kind name parent} {
    if {$parent ne "" && ![dict exists $::objects $parent]} { refuse "no object $parent" }
    dict for {handle about} $::objects {
        if {[dict get $about kind] eq $kind && [dict get $about NAME] eq $name &&
            [dict get $about parent] eq $parent} { refuse "two of $kind $name" }
    }
    set handle $kind#[incr ::count]
    dict set ::objects $handle [dict create kind $kind NAME $name parent $parent]
    return $handle
}
proc children {kind parent} {
    set found {}
    dict for {handle about} $::objects {
        if {[dict get $about kind] eq $kind && [dict get $about parent] eq $parent} {
            lappend found $handle
        }
    }
    return $found
}
namespace eval ipx {
    proc package_project {args} {
        lassign [options $args {-import_files -force}] found
        set ::core [object core "" ""]
        dict set ::objects $::core identity \
            [list [dict get $found -vendor] [dict get $found -library]]
        object bus guessed $::core
    }
    proc current_core {} { return $::core }
    proc get_bus_interfaces {option core} { return [children bus $core] }
    proc remove_bus_interface {name core} {
        foreach bus [children bus $core] {
            if {[dict get $::objects $bus NAME] eq $name} { dict unset ::objects $bus }
        }
    }
    proc add_bus_interface {name core} { return [object bus $name $core] }
    proc add_port_map {name bus} { return [object map $name $bus] }
    proc add_bus_parameter {name bus} { return [object parameter $name $bus] }
    proc add_memory_map {name core} { return [object memory_map $name $core] }
    proc add_address_block {name map} { return [object block $name $map] }
    proc add_register {name block} { return [object register $name $block] }
    proc add_field {name register} { return [object field $name $register] }
    proc add_address_space {name core} { return [object space $name $core] }
    proc create_xgui_files {core} {}
    proc update_checksums {core} {}
    proc check_integrity {core} { check_ip $core }
    proc save_core {core} { offer_ip $core }
}
proc about {handle name} { return [dict get $::objects $handle $name] }
proc parameter_of {bus name} {
    foreach one [children parameter $bus] { if {[about $one NAME] eq $name} { return [about $one value] } }
    return ""
}
proc direction {logical mode} {
    # Whether a master, or the source of a signal, drives it.
    set drives [expr {![regexp {READY$|^R(DATA|RESP|VALID|LAST|ID)$|^B(RESP|VALID|ID)$} $logical] ||
        $logical in {BREADY RREADY}}]
    return [expr {$drives == ($mode eq "master") ? "output" : "input"}]
}
proc check_ip {core} {
    foreach bus [children bus $core] {
        set mode [about $bus interface_mode]
        foreach map [children map $bus] {
            set port [about $map physical_name]
            if {![dict exists $::ports $port]} { refuse "the gateware has no port $port" }
            if {[dict exists $::mapped $port]} { refuse "port $port is mapped twice" }
            if {[dict get $::ports $port] ne [direction [about $map NAME] $mode]} {
                refuse "port $port is an [dict get $::ports $port]"
            }
            dict set ::mapped $port $bus
        }
    }
    dict for {port way} $::ports {
        if {![dict exists $::mapped $port]} { refuse "port $port is in no interface" }
    }
    foreach map [children memory_map $core] {
        foreach block [children block $map] { check_registers $block }
    }
}
proc check_registers {block} {
    set words {}
    foreach register [children register $block] {
        set offset [expr {[about $register address_offset]}]
        set name [about $register NAME]
        if {$offset % 4 || $offset + 4 > [about $block range]} { refuse "register $name at $offset" }
        if {[dict exists $words $offset]} { refuse "register $name is where [dict get $words $offset] is" }
        dict set words $offset $name
        if {[about $register access] ni {read-only write-only read-write}} { refuse "access of $name" }
        set used 0
        foreach field [children field $register] {
            set mask [expr {((1 << [about $field bit_width]) - 1) << [about $field bit_offset]}]
            if {$mask & $used || $mask >> 32} { refuse "field [about $field NAME] of $name" }
            set used [expr {$used | $mask}]
        }
    }
}
proc offer_ip {core} {
    # From here on the block design can use it: its pins, interfaces, spaces and segments.
    set ::packaged [join [concat [about $core identity] [about $core name] [about $core version]] :]
    foreach bus [children bus $core] {
        set name [about $bus NAME]
        set mode [about $bus interface_mode]
        set type [about $bus bus_type_vlnv]
        if {$type ne "xilinx.com:interface:aximm:1.0"} {
            set way [dict get {slave I master O} $mode]
            lappend ::names [list ip pin $name $way always]
            continue
        }
        lappend ::names [list ip interface $name $mode always]
        if {$mode eq "master"} { lappend ::names [list ip space $name $name -] }
    }
    foreach map [children memory_map $core] {
        foreach block [children block $map] {
            set at 0x0+[about $block range]
            lappend ::names [list ip segment [about $map NAME]/[about $block NAME] [about $map NAME] $at]
        }
    }
    note packaged $::packaged
}
