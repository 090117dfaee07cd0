# The gateware as an IP with a stable name, interfaces and its register map. Vivado would guess
# interfaces from the names of ports; nothing is left to that.

proc port_names {protocol} {
    # The signals of an interface, as the gateware has them.
    set names {
        AWADDR AWVALID AWREADY WDATA WSTRB WVALID WREADY BRESP BVALID BREADY
        ARADDR ARVALID ARREADY RDATA RRESP RVALID RREADY
    }
    if {$protocol eq "AXI4LITE"} {
        return [concat $names AWPROT ARPROT]
    }
    set names [concat $names AWLEN AWSIZE AWBURST WLAST ARLEN ARSIZE ARBURST RLAST]
    if {$protocol eq "AXI3"} {
        set names [concat $names {
            AWID AWLOCK AWCACHE AWPROT AWQOS WID BID ARID ARLOCK ARCACHE ARPROT ARQOS RID
        }]
    }
    return $names
}

proc add_interface {core name mode type ports parameters} {
    set bus [ipx::add_bus_interface $name $core]
    set_property abstraction_type_vlnv xilinx.com:${type}_rtl:1.0 $bus
    set_property bus_type_vlnv xilinx.com:$type:1.0 $bus
    set_property interface_mode $mode $bus
    dict for {logical physical} $ports {
        set_property physical_name $physical [ipx::add_port_map $logical $bus]
    }
    dict for {parameter value} $parameters {
        set_property value $value [ipx::add_bus_parameter $parameter $bus]
    }
    return $bus
}

proc add_axi {core name mode protocol bits address_bits} {
    set ports {}
    foreach logical [port_names $protocol] {
        dict set ports $logical ${name}__[string tolower $logical]
    }
    return [add_interface $core $name $mode interface:aximm $ports [list \
        PROTOCOL $protocol DATA_WIDTH $bits ADDR_WIDTH $address_bits]]
}

proc add_registers {core bus span registers} {
    set map [ipx::add_memory_map control $core]
    set_property slave_memory_map_ref control $bus
    set block [ipx::add_address_block Reg $map]
    set_property base_address 0 $block
    set_property range $span $block
    set_property width 32 $block
    set_property usage register $block
    foreach register $registers {
        lassign $register name offset access fields
        set one [ipx::add_register $name $block]
        set_property address_offset $offset $one
        set_property size 32 $one
        set_property access $access $one
        foreach field $fields {
            lassign $field field_name low width
            set bits [ipx::add_field $field_name $one]
            set_property bit_offset $low $bits
            set_property bit_width $width $bits
            set_property access $access $bits
        }
    }
}

proc package_overlay {work} {
    source $work/constants.tcl
    create_project -force package $work/package -part $part
    add_files -norecurse $work/overlay.v
    set_property top $top [current_fileset]
    update_compile_order -fileset sources_1
    lassign [split $vlnv :] vendor library name version
    ipx::package_project -root_dir $work/ip -vendor $vendor -library $library \
        -taxonomy /UserIP -import_files -force
    set core [ipx::current_core]
    set_property name $name $core
    set_property version $version $core
    set_property display_name "Ciuic overlay" $core
    set_property supported_families {zynq Production zynquplus Production} $core
    foreach bus [ipx::get_bus_interfaces -of_objects $core] {
        ipx::remove_bus_interface [get_property NAME $bus] $core
    }

    set control_bits [expr {int(log([lindex $control 1]) / log(2) + 0.5)}]
    set bus [add_axi $core control slave AXI4LITE 32 $control_bits]
    add_registers $core $bus [lindex $control 1] $registers
    set names control
    foreach port $memory_ports {
        set name [dict get $port overlay]
        set bus [add_axi $core $name master $memory_protocol $bus_bits $address_bits]
        set space [ipx::add_address_space $name $core]
        set_property range [expr {1 << $address_bits}] $space
        set_property width $bus_bits $space
        set_property master_address_space_ref $name $bus
        lappend names $name
    }
    add_interface $core clk slave signal:clock {CLK clk} [list \
        ASSOCIATED_BUSIF [join $names :] ASSOCIATED_RESET rst FREQ_HZ $clock_hz]
    add_interface $core rst slave signal:reset {RST rst} {POLARITY ACTIVE_HIGH}
    add_interface $core interrupt master signal:interrupt {INTERRUPT interrupt} \
        {SENSITIVITY LEVEL_HIGH}

    ipx::create_xgui_files $core
    ipx::update_checksums $core
    ipx::check_integrity $core
    ipx::save_core $core
    close_project
}
