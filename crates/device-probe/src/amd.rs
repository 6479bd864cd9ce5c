//! AMD cards, as the kernel's `amdgpu` driver shows them below `/sys/class/drm`.

use std::{fs, path::Path};

use fleet::{Device, DeviceKind};

/// PCI vendor id of AMD.
const VENDOR: &str = "0x1002";

pub(crate) fn devices(drm: &Path) -> Vec<Device> {
    let Ok(entries) = fs::read_dir(drm) else { return Vec::new() };
    let mut cards: Vec<(u32, std::path::PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            // Only `card0`; `card0-DP-1` and `renderD128` are other views of the same card.
            let number = name.to_str()?.strip_prefix("card")?.parse().ok()?;
            Some((number, entry.path().join("device")))
        })
        .collect();
    cards.sort();
    let cards = cards.into_iter().filter_map(|(_, path)| card(&path));
    cards.zip(0..).map(|(device, index)| Device { index, ..device }).collect()
}

fn card(path: &Path) -> Option<Device> {
    let file = |name: &str| fs::read_to_string(path.join(name)).map(|text| text.trim().to_owned());
    if file("vendor").ok()? != VENDOR {
        return None;
    }
    let total: u64 = file("mem_info_vram_total").ok()?.parse().ok()?;
    let used: u64 = file("mem_info_vram_used").ok()?.parse().ok()?;
    let name = file("product_name").ok().filter(|name| !name.is_empty());
    let name = name.or_else(|| file("device").ok().map(|id| format!("AMD GPU {id}")))?;
    Some(Device {
        kind: DeviceKind::Rocm,
        index: 0,
        name,
        memory_total: total,
        memory_free: total.saturating_sub(used),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_amds_cards_are_listed_in_order() {
        let drm = tempfile::tempdir().unwrap();
        for (card, vendor, total) in
            [("card2", "0x1002", "300"), ("card0", "0x10de", "1"), ("card1", "0x1002", "200")]
        {
            let device = drm.path().join(card).join("device");
            fs::create_dir_all(&device).unwrap();
            for (file, text) in [
                ("vendor", vendor),
                ("device", "0x744c"),
                ("mem_info_vram_total", total),
                ("mem_info_vram_used", "50"),
            ] {
                fs::write(device.join(file), format!("{text}\n")).unwrap();
            }
        }
        fs::create_dir_all(drm.path().join("card1-DP-1")).unwrap();
        let found: Vec<_> =
            devices(drm.path()).into_iter().map(|d| (d.index, d.memory_free, d.name)).collect();
        assert_eq!(found, [(0, 150, "AMD GPU 0x744c".to_owned()), (1, 250, "AMD GPU 0x744c".to_owned())]);
        assert_eq!(devices(Path::new("/nowhere")), []);
    }
}
