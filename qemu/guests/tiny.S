# The tiny guest of the lifecycle tests: a boot sector that counts its boots on
# disk (sector 1), reports on COM1, echoes what it reads there, and powers off
# when the ACPI power button is pressed. Chipset: q35 as SeaBIOS sets it up
# (PM1 status 0x600, enable 0x602, control 0x604).
# Assembled like probe.S.
        .code16
        .globl _start
_start: cli
        xorw %ax, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movw $0x7c00, %sp
        movb %dl, drive
        movw $0x0201, %ax               # read one sector
        call disk
        incb 0x8000
        movw $0x0301, %ax               # write it
        call disk
        movw $hello, %si
        call puts
        movb 0x8000, %al
        addb $'0', %al
        call putc
        movb $'\n', %al
        call putc
        movw $0x602, %dx                # PM1 enable: power button
        movw $0x100, %ax
        outw %ax, %dx
loop:   movw $0x600, %dx                # PM1 status
        inw %dx, %ax
        testw $0x100, %ax
        jnz off
        movw $0x3fd, %dx                # line status: byte there?
        inb %dx, %al
        testb $1, %al
        jz loop
        movw $0x3f8, %dx
        inb %dx, %al
        cmpb $'r', %al                  # 'r' resets the machine
        je reset
        call putc
        jmp loop
off:    movw $bye, %si
        call puts
        movw $0x604, %dx                # PM1 control: S5
        movw $0x2000, %ax
        outw %ax, %dx
        hlt
reset:  movw $0xcf9, %dx
        movb $0x06, %al
        outb %al, %dx
        hlt
disk:   movb drive, %dl
        movw $0x0002, %cx               # cylinder 0, sector 2 counting from 1
        movb $0, %dh
        movw $0x8000, %bx
        int $0x13
        ret
puts:   lodsb
        testb %al, %al
        jz 1f
        call putc
        jmp puts
1:      ret
putc:   movb %al, %ah
        movw $0x3fd, %dx
1:      inb %dx, %al
        testb $0x20, %al
        jz 1b
        movw $0x3f8, %dx
        movb %ah, %al
        outb %al, %dx
        ret
hello:  .asciz "slipway test guest, boot "
bye:    .asciz "power button, bye\n"
drive:  .byte 0
        .org 510
        .word 0xaa55
