//! Images of the other boards, as far as they can be emulated: each is a cluster, too. They take
//! a build for a processor of their own, so they are `make test-boards`' and not CI's.

use slipway_qemu::machine::Arch;

use super::machine::{Cluster, MINUTE, image_of};

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn board_arm64_uefi_is_a_cluster() {
    let image = image_of("SLIPWAY_ARM64_IMAGE", "arm64-uefi");
    let mut cluster = Cluster::of_board(Arch::Aarch64, image);
    cluster.wait_ready();
    let path = "jsonpath={.items[0].status.nodeInfo.architecture}";
    assert_eq!(cluster.kubectl(&["get", "nodes", "-o", path]), "arm64");
    cluster.wait_dns();
    cluster.node.power_down(2 * MINUTE);
    let console = cluster.node.console();
    assert!(!console.contains("FAILED"), "{console}");
    cluster.data_is_clean();
}
