//! From a file's bytes, in base64, to pixels.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, ImageDecoder as _, ImageReader, Limits, Rgba};
use sha2::{Digest as _, Sha256};

use crate::engine::llama::Picture;

/// The longest side of a picture, in pixels.
const MOST_PIXELS_A_SIDE: u32 = 16_384;

/// The most memory that decoding may take. A picture of 50 megapixels needs a third of it.
const MOST_BYTES: u64 = 512 << 20;

/// An image is not usable.
#[derive(Debug, thiserror::Error)]
pub enum InvalidImage {
    /// It stands nowhere in its message.
    #[error("its place is not within the message's text, or not in the order of the images")]
    Place,
    /// It is not in base64.
    #[error("it is no base64")]
    Base64(#[source] base64::DecodeError),
    /// It is no picture.
    #[error("it is no PNG, JPEG, WebP, GIF or BMP picture")]
    UnknownFormat,
    /// It is damaged or too large.
    #[error("it cannot be decoded: {0}")]
    Undecodable(image::ImageError),
}

/// Decodes a picture, upright, what is transparent in it on white.
pub(super) fn picture(base64: &str) -> Result<Picture, InvalidImage> {
    let bytes = STANDARD.decode(base64).map_err(InvalidImage::Base64)?;
    let digest = Sha256::digest(&bytes).into();
    let reader = ImageReader::new(Cursor::new(&bytes)).with_guessed_format();
    // Reading from memory does not fail.
    let mut reader = reader.map_err(|error| InvalidImage::Undecodable(error.into()))?;
    if reader.format().is_none() {
        return Err(InvalidImage::UnknownFormat);
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MOST_PIXELS_A_SIDE);
    limits.max_image_height = Some(MOST_PIXELS_A_SIDE);
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(undecodable)?;
    let orientation = decoder.orientation().map_err(undecodable)?;
    let mut pixels = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    pixels.apply_orientation(orientation);
    let rgb = on_white(pixels);
    let (width, height) = rgb.dimensions();
    Ok(Picture { width, height, rgb: rgb.into_raw(), digest })
}

fn undecodable(error: image::ImageError) -> InvalidImage {
    match error {
        // The format is known and its decoder is not built in.
        image::ImageError::Unsupported(_) => InvalidImage::UnknownFormat,
        error => InvalidImage::Undecodable(error),
    }
}

fn on_white(picture: DynamicImage) -> image::RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let mut picture = picture.into_rgba8();
    for Rgba([red, green, blue, alpha]) in picture.pixels_mut() {
        for colour in [red, green, blue] {
            let blended = u16::from(*colour) * u16::from(*alpha) + 255 * (255 - u16::from(*alpha));
            *colour = u8::try_from(blended / 255).unwrap_or(u8::MAX);
        }
    }
    DynamicImage::ImageRgba8(picture).into_rgb8()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(picture: &DynamicImage) -> Vec<u8> {
        let mut bytes = Vec::new();
        picture.write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
        bytes
    }

    #[test]
    fn pixels_are_those_of_the_file_and_what_is_transparent_is_white() {
        let pixels = [[255, 0, 0, 255], [9, 9, 9, 0], [0, 0, 0, 51], [1, 2, 3, 255]].concat();
        let drawn = image::RgbaImage::from_raw(2, 2, pixels).unwrap();
        let bytes = png(&drawn.into());
        let seen = picture(&STANDARD.encode(&bytes)).unwrap();
        assert_eq!((seen.width, seen.height), (2, 2));
        assert_eq!(seen.rgb, [255, 0, 0, 255, 255, 255, 204, 204, 204, 1, 2, 3]);
        assert_eq!(seen.digest[..], Sha256::digest(&bytes)[..]);
    }

    #[test]
    fn what_is_no_picture_is_refused_in_words() {
        let whole = png(&DynamicImage::new_rgb8(64, 64));
        let mut broken = whole.clone();
        broken.truncate(whole.len() / 2);
        let wide = png(&DynamicImage::new_luma8(20_000, 1));
        for (data, said) in [
            ("not base64!".to_owned(), "base64"),
            (STANDARD.encode("plain text"), "no PNG"),
            (STANDARD.encode(""), "no PNG"),
            (STANDARD.encode(broken), "cannot be decoded"),
            (STANDARD.encode(wide), "cannot be decoded"),
        ] {
            let error = picture(&data).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
