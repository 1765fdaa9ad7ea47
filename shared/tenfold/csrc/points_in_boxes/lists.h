// Hits of every (box, piece of points) turned into places, on the device. CUDA library only.
#pragma once
#include "common/device_stream.h"
#include "points_in_boxes/points_in_boxes.h"

namespace tenfold::cuda {

// Lists one behind the other: bound[box] is where the list of each box begins, bound[boxes] the end of the last, which
// is returned (a synchronisation: it sizes the result). `entry` has room for one more.
int64_t places_of_lists(const device::Stream& stream, const BoxElement* elements, int64_t num_elements, int64_t boxes,
                        int64_t* entry, int64_t count, int64_t* bound);

// Lists in the rows of a table of `columns`: `limit` is the end of each row, `number` the hits of each box.
void places_of_table(const device::Stream& stream, const BoxElement* elements, int64_t num_elements, int64_t columns,
                     int64_t* entry, int64_t* limit, int32_t* number);

}  // namespace tenfold::cuda
