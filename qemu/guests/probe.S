# The trial guest of the accelerator probe: a boot sector that goes from real
# mode into long mode with paging on, computes with the integer unit, the x87
# and SSE2 (and BMI2's VEX coding where CPUID has it), and tells QEMU through
# isa-debug-exit that the results were right. A KVM that only emulates gets
# through real mode and then fails at the floating-point and VEX instructions,
# which are the first things that firmware and kernel do: that is what this tries.
# Assembled by: as --32 -o probe.o probe.S && ld -m elf_i386 --oformat binary -Ttext 0x7c00 -o probe.bin probe.o
        .code16
        .globl _start
_start: cli
        xorw %ax, %ax
        movw %ax, %ds
        movw %ax, %es
        # Page tables at 0x1000 (PML4), 0x2000 (PDPT), 0x3000 (PD): the first 2 MiB, identity.
        movw $0x1000, %di
        movw $0x1800, %cx
        cld
        rep stosw
        movw $0x2003, 0x1000
        movw $0x3003, 0x2000
        movw $0x0083, 0x3000
        lgdt gdtr
        movl $0x1000, %eax
        movl %eax, %cr3
        movl $0x6a0, %eax               # CR4: PAE, PGE, OSFXSR, OSXMMEXCPT
        movl %eax, %cr4
        movl $0xc0000080, %ecx          # EFER
        rdmsr
        orl $0x100, %eax                # LME
        wrmsr
        movl %cr0, %eax
        andl $0xfffffffb, %eax          # not EM: floating point is real
        orl $0x80000003, %eax           # PG, MP, PE
        movl %eax, %cr0
        ljmp $8, $long
        .code64
long:   movl $16, %eax
        movl %eax, %ss
        movl $0x7000, %esp
        # 1 + 2 + ... + 100000 through the stack; the sum's low byte must be right.
        xorl %ebx, %ebx
        movl $100000, %ecx
1:      push %rcx
        pop %rdx
        addq %rdx, %rbx
        loop 1b
        movq $5000050000, %rdx
        movb $0x01, %al
        cmpq %rdx, %rbx
        jne out
        # x87: the square root of 5000050000 squared is it again.
        fwait
        fninit
        pushq %rbx
        fildq (%rsp)
        fsqrt
        fmul %st(0), %st(0)
        fistpq (%rsp)
        popq %rdx
        movb $0x02, %al
        cmpq %rdx, %rbx
        jne out
        # SSE2: the sum added to itself, twice it.
        movq %rbx, %xmm0
        paddq %xmm0, %xmm0
        movq %xmm0, %rdx
        shrq %rdx
        movb $0x03, %al
        cmpq %rdx, %rbx
        jne out
        # BMI2, coded with VEX: shifted left by 4 and back.
        xorl %ecx, %ecx
        xorl %eax, %eax
        pushq %rbx
        cpuid
        movl %eax, %esi
        movl $7, %eax
        xorl %ecx, %ecx
        cpuid
        movl %ebx, %edi
        popq %rbx
        cmpl $7, %esi
        jb right
        btl $8, %edi
        jnc right
        movl $4, %ecx
        shlxq %rcx, %rbx, %rdx
        shrq $4, %rdx
        movb $0x04, %al
        cmpq %rdx, %rbx
        jne out
right:  movb $0x2a, %al                 # QEMU exits with 2 * 0x2a + 1 = 85
out:    outb %al, $0xf4                 # wrong: with 3, 5, 7 or 9
        hlt
        jmp out
        .balign 8
gdt:    .quad 0
        .quad 0x00209a0000000000        # 64-bit code
        .quad 0x0000920000000000        # data
gdtr:   .word 23
        .long gdt
        .org 510
        .word 0xaa55
